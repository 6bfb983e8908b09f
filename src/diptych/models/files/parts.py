"""What the files of a model hold, and the errors for files that hold something else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from diptych.core.errors import IntegrityError, UnsupportedError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.siglip_engines import Cleaning
from diptych.models.towers.clip import meta_init
from diptych.models.towers.config import ClipConfig

SHOWN = 6  # tensors in a message
SUPPORTED = "a CLIP (vision Transformer or ModifiedResNet), SigLIP, or SigLIP 2 of a fixed resolution"

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model's files hold.

    Attributes:
        format: "open_clip", "transformers" or "openai".
        config: the architecture.
        state: our tensors by name.
        theirs: the tensors as the files name them; None where they were checked when they were read.
        to_theirs: turns our tensors into theirs.
        preprocess: None where no file states it.
        files: those that were read.
        folder: where a tokenizer may lie; None for a lone file.
        where: the file for messages.
        cleaning: of SigLIP's texts, where the configuration says it.
        taken_from: as `Weights` says it.
    """

    format: str
    config: ClipConfig
    state: dict[str, Tensor]
    theirs: State | None
    to_theirs: Callable[[State], State]
    preprocess: Preprocess | None
    files: tuple[Path, ...]
    folder: Path | None
    where: Path
    cleaning: Cleaning | None = None
    taken_from: str = ""

    def with_config(self, config: ClipConfig) -> "Parts":
        """Return the parts for a configuration of another vocabulary: rows that no token has are left out."""
        state = dict(self.state)
        name, rows = "text.token_embedding.weight", config.text.vocab_size
        if name in state:
            state[name] = state[name][:rows]
        return replace(self, config=config, state=state)

    def check(self) -> None:
        """Hold the tensors of the files against those of the towers, in the names of the files.

        Raises:
            IntegrityError: a tensor is missing, unknown or has another shape.
        """
        if self.theirs is None:
            return
        wanted = meta_init(self.config).state_dict()
        expected = {name: list(tensor.shape) for name, tensor in self.to_theirs(wanted).items()}
        found = {name: list(tensor.shape) for name, tensor in self.theirs.items()}
        told = [f"no {name} {shape}" for name, shape in sorted(expected.items()) if name not in found]
        told += [
            f"an unknown {name} {shape}" for name, shape in sorted(found.items()) if name not in expected
        ]
        told += [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in sorted(expected.items())
            if name in found and found[name] != shape
        ]
        told += [
            f"{name} as {self.state[name].dtype}"
            for name, tensor in wanted.items()
            if not told and self.state[name].is_floating_point() != tensor.is_floating_point()
        ]
        if told:
            more = f" … ({len(told)} in all)" if len(told) > SHOWN else ""
            raise IntegrityError(
                "the weights do not fit the architecture",
                where=self.where,
                found="; ".join(told[:SHOWN]) + more,
                expected=f"every tensor of the towers once: {self.config.vision}, {self.config.text}",
                fix="give the configuration that belongs to these weights, and weights of a CLIP alone",
            )


def malformed(path: Path, found: str, expected: str) -> IntegrityError:
    """Build the error for a file whose content makes no model."""
    return IntegrityError(
        "the file does not describe a model that can be read",
        where=path,
        found=found,
        expected=expected,
        fix="restore the file that was published with these weights",
    )


def unsupported(path: Path, library: str, found: str) -> UnsupportedError:
    """Build the error for a whole file of a kind that this package does not have."""
    return UnsupportedError(
        "diptych does not have this kind of model",
        where=path,
        found=found,
        expected=SUPPORTED,
        fix=f"load it with {library}, which reads these files",
    )
