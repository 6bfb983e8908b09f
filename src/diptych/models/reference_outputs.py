"""Fixed images and captions, and the embeddings that a model gave for them when it was saved.

The images are drawn by a formula and stored as pixels, so a later version of the formula cannot change what
is compared. Each step from image and caption to embedding is stored: a difference is reported where it
begins. Needs no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import DataError, IntegrityError
from diptych.data.images.transforms import Pixels, evaluation_pixels
from diptych.models.encode import Encoder
from diptych.models.files.verification_cache import Cosines

Arrays = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-4  # of an embedding's component: rounding between processors stays below 1e-5
PIXEL_TOLERANCE = 1  # levels of 0..255 that a resize may differ by between versions of Pillow
SHOWN_CHARACTERS = 60
INPUTS = {"image": "pixels", "text": "tokens"}  # of each tower

# Type and number of dimensions of the inputs and outputs in `reference_outputs.safetensors`.
KINDS = {
    "picture": ("uint8", 3),
    "pixels": ("uint8", 4),
    "tokens": ("int64", 2),
    "image_embeds": ("float32", 2),
    "text_embeds": ("float32", 2),
}

# Empty, plain, capitals, entities and emoji, digits, a pangram, other scripts, longer than any context.
CAPTIONS = (
    "",
    "a photo of a dog",
    "A RED Circle above TWO blue squares",
    "caf\u00e9 &amp; cr\u00e8me \u2615 \U0001f31e",
    "42 pieces, size 9.5",
    "the quick brown fox jumps over the lazy dog",
    "\u65e5\u672c\u8a9e \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "very long " * 60,
)
_ASPECTS = ((1.0, 1.0), (1.25, 1.0), (1.0, 1.5), (0.75, 0.875))
_ADDED_TOKENS_IN_A_CAPTION = 8


def reference_captions(model: Encoder) -> tuple[str, ...]:
    """Return the captions that a model is checked on: `CAPTIONS`, then all tokens added to its vocabulary."""
    added = model.tokenizer.added
    step = max(1, min(_ADDED_TOKENS_IN_A_CAPTION, (model.tokenizer.context_length - 2) // 2))
    return (*CAPTIONS, *(" a ".join(added[start : start + step]) for start in range(0, len(added), step)))


def reference_images(size: tuple[int, int]) -> list[np.ndarray]:
    """Draw four images, (H', W', 3) uint8, whose shapes exercise resizing and cropping to (height, width).

    Crossing waves of growing frequency, no two channels alike.
    """
    images = []
    for number, (tall, wide) in enumerate(_ASPECTS):
        height, width = round(size[0] * tall), round(size[1] * wide)
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        turns = 2.0 ** (number + 1)
        waves = [np.sin(2 * np.pi * (turns * x * (1 + c) + turns * y * (3 - c) + c / 3)) for c in range(3)]
        images.append(np.round(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))
    return images


def reference_arrays(model: Encoder) -> dict[str, NDArray[Any]]:
    """Return images, pixels, tokens and float32 embeddings of the model as it is now."""
    images = reference_images(model.preprocess.size)
    arrays: dict[str, NDArray[Any]] = {f"picture_{number}": image for number, image in enumerate(images)}
    arrays["pixels"] = _pixels(model, images)
    arrays["tokens"] = model.tokenizer.tokens(reference_captions(model))
    for tower, name in INPUTS.items():
        arrays[f"{tower}_embeds"] = model.encode_batch(arrays[name])
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def read_reference(path: Path) -> dict[str, NDArray[Any]]:
    """Read stored reference inputs and outputs.

    Raises:
        IntegrityError: the file cannot be read, or an array is of another kind than this package writes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = dict(load(path.read_bytes()))
    except (OSError, SafetensorError, KeyError) as error:
        raise IntegrityError("cannot read the tensors", where=path, found=str(error)[:200]) from error
    for name, array in arrays.items():
        kind, dimensions = KINDS.get("picture" if name.startswith("picture_") else name, ("nothing", 0))
        if str(array.dtype) != kind or array.ndim != dimensions or 0 in array.shape:
            raise IntegrityError(
                "the reference outputs are damaged",
                where=f"{path.parent}: {name[:SHOWN_CHARACTERS]}",
                found=f"{array.dtype} {list(array.shape)}",
                expected=f"{kind}, {dimensions} dimensions, none of them empty",
                fix="restore the folder from a copy, or write it again",
            )
    return arrays


def check_reference(
    model: Encoder, stored: Arrays, captions: Sequence[str], *, where: Path, fix: str, exact: bool = True
) -> Cosines:
    """Hold a model against what it gave when it was saved; return each tower's smallest cosine.

    Raises:
        IntegrityError: preprocessing or tokenizer give something else, or a tower does that should be exact.
    """

    def different(part: str, found: str, expected: str) -> IntegrityError:
        what = f"{part} no longer gives what it gave when this folder was written"
        return IntegrityError(what, where=where, found=found, expected=expected, fix=fix)

    try:
        images = [stored[name] for name in sorted(stored) if name.startswith("picture_")]
        pixels = _pixels(model, images)
        if not np.abs(pixels.astype(int) - stored["pixels"]).max() <= PIXEL_TOLERANCE:
            raise different("the preprocessing", "other pixels", f"at most {PIXEL_TOLERANCE} level")
        if not np.array_equal(model.tokenizer.tokens(captions), stored["tokens"]):
            raise different("the tokenizer", "other ids", "the same ids")
        rows = {tower: model.encode_batch(stored[name]) for tower, name in INPUTS.items()}
        expected = {tower: stored[f"{tower}_embeds"] for tower in INPUTS}
        width = model.config.embed_dim
        if any(not rows[t].shape == expected[t].shape == (len(rows[t]), width) for t in INPUTS):
            raise ValueError("embeddings of another shape")
    except (KeyError, ValueError, DataError) as error:
        raise different("the reference outputs", f"incomplete ({error})", "all of them") from error
    for tower in INPUTS if exact else ():
        difference = float(np.abs(rows[tower] - expected[tower]).max())
        if not difference <= TOLERANCE:
            raise different(
                f"the {tower} tower", f"a difference of {difference:.2g}", f"at most {TOLERANCE:g}"
            )
    return {tower: float((rows[tower] * expected[tower]).sum(axis=1).min()) for tower in INPUTS}


def _pixels(model: Encoder, images: Sequence[Pixels]) -> Pixels:
    return np.stack([evaluation_pixels(Image.fromarray(image), model.preprocess) for image in images])
