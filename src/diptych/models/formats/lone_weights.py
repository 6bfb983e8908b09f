"""Read weights that lie without a configuration. What they do not say is asked for, never guessed.

Reads: what `weights` reads, with the names of OpenAI's layout.
"""

from pathlib import Path

from diptych.core.errors import DataError, SettingsError, UnsupportedError, UsageError, unknown_name
from diptych.data.images.transforms import Preprocess
from diptych.models.files.parts import Parts, malformed
from diptych.models.files.weights import Weights, read_weights
from diptych.models.formats.openai import HEAD_WIDTH, clean, from_openai_state, to_openai_state
from diptych.models.towers.config import ACTIVATIONS, Activation

OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's archives hold besides weights."""

CLASS_OF_ACTIVATION: dict[str, Activation] = {"QuickGELU": "quick_gelu", "GELU": "gelu"}


def read_alone(folder: Path | None, weights: Path, activation: Activation | None) -> Parts:
    """Read weights in OpenAI's layout that no configuration describes."""
    found = read_weights(weights)
    if any(
        name.startswith(("text_model.", "visual.trunk.", "text.transformer.embeddings"))
        for name in found.tensors
    ):
        raise UsageError(
            "these weights need the configuration that belongs to them",
            where=weights,
            expected="config.json or open_clip_config.json in the same folder",
            fix="put the configuration beside the weights and load the folder",
        )
    activation = _activation(found, activation, weights)
    # `clip.load` has one transform and heads of one width for all files of this form, so the form tells both.
    openai = (
        activation == "quick_gelu" and bool(found.modules) and found.tensors.keys() >= set(OPENAI_NUMBERS)
    )
    try:
        config, state = from_openai_state(
            found.tensors, activation=activation, head_width=HEAD_WIDTH if openai else None
        )
    except (DataError, UnsupportedError) as error:
        error.where = str(weights)
        raise
    except (ValueError, SettingsError) as error:
        raise malformed(weights, str(error), "the shapes of a CLIP in OpenAI's layout") from error
    preprocess = Preprocess(size=config.vision.image_size) if openai else None
    theirs = clean(found.tensors)
    return Parts(
        "openai", config, state, theirs, to_openai_state, preprocess, found.files, folder, weights,
        taken_from=found.taken_from,
    )  # fmt: skip


def stated_activation(found: Weights) -> Activation | None:
    """Return the activation that an archive states by the class of its modules; None: nothing states it."""
    names = {name for path, name in found.modules.items() if path.endswith(".mlp.gelu")}
    return CLASS_OF_ACTIVATION.get(names.pop()) if len(names) == 1 else None


def _activation(found: Weights, given: Activation | None, weights: Path) -> Activation:
    """Return the activation: an archive names the class of its modules, other weights do not tell."""
    known = stated_activation(found)
    if known is not None:
        if given not in (None, known):
            raise UsageError(
                "the archive states another activation than the one passed",
                where=weights,
                found=given,
                expected=known,
                fix="leave activation= out",
            )
        return known
    if given is None:
        raise UsageError(
            "weights alone do not tell their activation, and the wrong one costs accuracy without an error",
            where=weights,
            expected=f"activation= one of {', '.join(ACTIVATIONS)}",
            fix='pass activation="quick_gelu" for OpenAI\'s, MetaCLIP\'s and DFN\'s weights, "gelu" for '
            "LAION-2B's and DataComp's; the table of public names has all",
        )
    if given not in ACTIVATIONS:
        raise unknown_name("activation", str(given), ACTIVATIONS, where=weights)
    return given
