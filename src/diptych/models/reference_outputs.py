"""Fixed images and captions, and the embeddings that a model gave for them when it was saved.

The images are drawn by a formula and stored as pixels, so a later version of the formula cannot change what
is compared. Each step from image and caption to embedding is stored: a difference is reported where it
begins.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.core.errors import IntegrityError
from diptych.data.images.transforms import evaluation_pixels
from diptych.models.model import Model
from diptych.models.runtimes.choice import require_kinds

TOLERANCE = 1e-4  # of an embedding's component: rounding between processors stays below 1e-5
PIXEL_TOLERANCE = 1  # levels of 0..255 that a resize may differ by between versions of Pillow

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


def reference_captions(model: Model) -> tuple[str, ...]:
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


def reference_tensors(model: Model) -> dict[str, Tensor]:
    """Return images, pixels, tokens and float32 embeddings of the model as it is now."""
    images = reference_images(model.preprocess.size)
    tensors = {f"picture_{number}": torch.from_numpy(image) for number, image in enumerate(images)}
    tensors["pixels"] = _pixels(model, images)
    tensors["tokens"] = model.tokenize(reference_captions(model))
    tensors["image_embeds"], tensors["text_embeds"] = _embeds(model, tensors)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def verify_reference(model: Model, stored: Mapping[str, Tensor], *, where: str | Path) -> None:
    """Hold the model, on the CPU, against the outputs that `reference_tensors` gave when it was saved."""
    try:
        require_kinds(stored, where)
        images = [stored[f"picture_{number}"].numpy() for number in range(len(_ASPECTS))]
        pixels, tokens = _pixels(model, images), model.tokenize(reference_captions(model))
        _compare("the preprocessing", pixels, stored["pixels"], PIXEL_TOLERANCE, where)
        _compare("the tokenizer", tokens, stored["tokens"], 0, where)
        image_embeds, text_embeds = _embeds(model, stored)
        _compare("the image tower", image_embeds, stored["image_embeds"], TOLERANCE, where)
        _compare("the text tower", text_embeds, stored["text_embeds"], TOLERANCE, where)
    except KeyError as error:
        what = "the reference outputs are incomplete"
        raise IntegrityError(what, where=where, found=f"no tensor {error}") from error


def _pixels(model: Model, images: list[np.ndarray]) -> Tensor:
    arrays = [evaluation_pixels(Image.fromarray(image), model.preprocess) for image in images]
    return torch.from_numpy(np.stack(arrays))


def _embeds(model: Model, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    pixels = model.normalize_pixels(tensors["pixels"].permute(0, 3, 1, 2))
    images, texts = (
        model.encode_image(pixels, normalize=True),
        model.encode_text(tensors["tokens"], normalize=True),
    )
    return images.cpu().clone(), texts.cpu().clone()


def _compare(part: str, actual: Tensor, stored: Tensor, tolerance: float, where: str | Path) -> None:
    if actual.shape == stored.shape:
        difference = (actual.double() - stored.double()).abs().max().item()
        if difference <= tolerance:
            return
        found = f"a difference of {difference:.2g}"
    else:
        found = f"shape {list(actual.shape)} instead of {list(stored.shape)}"
    raise IntegrityError(
        f"{part} no longer gives what it gave when the checkpoint was saved",
        where=where,
        found=found,
        expected=f"at most {tolerance:g}",
        fix="use the config.json and tokenizer files that were saved with these weights",
    )
