"""What the files of a model hold, and the errors for files that hold something else."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from diptych.core.errors import IntegrityError, UnsupportedError, UsageError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.siglip_engines import Cleaning
from diptych.models.files.weights import Weights
from diptych.models.formats.layouts import SCALARS, State, weights_only
from diptych.models.towers.clip import meta_init
from diptych.models.towers.config import ClipConfig

SHOWN = 6  # tensors in a message
SUPPORTED = "a CLIP (vision Transformer or ModifiedResNet), SigLIP, or SigLIP 2 of a fixed resolution"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model's files hold.

    Attributes:
        format: "open_clip", "transformers" or "openai".
        state: our tensors by name.
        weights: theirs, as the files name them.
        to_theirs: turns our tensors into theirs.
        preprocess: None where no file states it.
        folder: where a tokenizer may lie; None for a lone file.
        where: the file for messages.
        cleaning: of SigLIP's texts, where the configuration says it.
    """

    format: str
    config: ClipConfig
    state: dict[str, Tensor]
    weights: Weights
    to_theirs: Callable[[State], State]
    preprocess: Preprocess | None
    files: tuple[Path, ...]
    folder: Path | None
    where: Path
    cleaning: Cleaning | None = None

    def with_config(self, config: ClipConfig) -> "Parts":
        """Return the parts for a configuration of another vocabulary: rows that no token has are left out."""
        name = "text.token_embedding.weight"
        rows = self.state[name][: config.text.vocab_size]
        return replace(self, config=config, state={**self.state, name: rows})

    def check(self) -> None:
        """Hold the tensors of the files against those of the towers, in the names of the files."""
        wanted = meta_init(self.config).state_dict()
        expected, actual = _shapes(self.to_theirs(wanted)), _shapes(weights_only(self.weights.tensors))
        wrong = [f"no {name} {shape}" for name, shape in expected.items() if name not in actual]
        wrong += [f"an unknown {name} {shape}" for name, shape in actual.items() if name not in expected]
        wrong += [
            f"{name} {actual[name]} instead of {shape}"
            for name, shape in expected.items()
            if actual.get(name, shape) != shape
        ]
        wrong = wrong or [
            f"{name} as {self.state[name].dtype}"
            for name, tensor in wanted.items()
            if self.state[name].is_floating_point() != tensor.is_floating_point()
        ]
        if wrong:
            more = f" … ({len(wrong)} in all)" if len(wrong) > SHOWN else ""
            raise IntegrityError(
                "the weights do not fit the architecture",
                where=self.where,
                found="; ".join(wrong[:SHOWN]) + more,
                expected=f"every tensor of the towers once: {self.config.vision}, {self.config.text}",
                fix="give the configuration that belongs to these weights, and weights of a CLIP alone",
            )


def _shapes(state: State) -> dict[str, list[int]]:
    return {
        name: [] if name in SCALARS and tensor.numel() == 1 else list(tensor.shape)
        for name, tensor in sorted(state.items())
    }


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


def cannot(library: str, name: str, found: object, expected: object) -> UnsupportedError:
    """Build the error for a setting of another library's that our towers or transform do not have."""
    return UnsupportedError(
        "the configuration asks for something that these towers cannot do",
        where=name,
        found=found,
        expected=expected,
        fix=f"use {library} for this model",
    )


def no_form(library: str, part: str, found: object, expected: str) -> UnsupportedError:
    """Build the error for a part of a model that another library's files cannot hold."""
    return UnsupportedError(f"{library} has no such {part}", found=found, expected=expected)


def other_activation(who: str, where: Path, given: object, expected: object) -> UsageError:
    """Build the error for an activation that was passed and contradicts the files."""
    return UsageError(
        f"{who} another activation than the one passed",
        where=where,
        found=given,
        expected=expected,
        fix="leave activation= out",
    )
