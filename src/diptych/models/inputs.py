"""What may be encoded: texts, and images in any form.

What is a text and what is an image is decided by the type alone, never by looking for a file:

- `str`: a text, also if it reads like the name of a file; only `data:image/…;base64,…` is an image
- `pathlib.Path` (anything with `__fspath__`): an image's file
- `bytes`, `bytearray`, `memoryview`: an encoded image
- `PIL.Image.Image`: an image, as it was opened (turned, if its EXIF says so)
- `numpy.ndarray` of uint8: an image, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)

Reads: files that are named by a path.
"""

import base64
import binascii
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import BadSampleError, DataError, Reason, UsageError
from diptych.data.images.limits import DEFAULT_LIMITS
from diptych.data.images.transforms import Pixels, Preprocess, evaluation_pixels, read_pixels

if TYPE_CHECKING:
    from torch import Tensor

ImageInput = Image.Image | bytes | bytearray | memoryview | os.PathLike[str] | NDArray[np.uint8] | str

DATA_URL = "data:image/"
CHANNELS = (1, 3, 4)
FILE: tuple[type, ...] = (bytes, bytearray, memoryview, os.PathLike)


def as_items(inputs: Any) -> tuple[list[Any], bool]:
    """Return the inputs as a list, and whether they were a single one.

    >>> as_items("a cat"), as_items(["a cat"])
    ((['a cat'], True), (['a cat'], False))
    """
    if is_single(inputs):
        return [inputs], True
    if not isinstance(inputs, Iterable) or isinstance(inputs, dict):
        raise _unknown(inputs, "the inputs")
    return list(inputs), False


def is_single(inputs: Any) -> bool:
    """Tell one text or image from several."""
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind not in "UO" and inputs.ndim in (2, 3)
    return isinstance(inputs, (str, *FILE, Image.Image))


def is_text(item: Any, position: int) -> bool:
    """Tell texts from images; what is neither is a UsageError."""
    if isinstance(item, str):
        return not item.startswith(DATA_URL)
    if isinstance(item, np.ndarray):
        shaped = item.ndim == 2 or (item.ndim == 3 and item.shape[-1] in CHANNELS)
        known = item.dtype == np.uint8 and shaped and item.size > 0
    else:
        known = isinstance(item, (*FILE, Image.Image))
    if not known:
        raise _unknown(item, f"input {position}")
    return False


def require_image(item: Any, position: int) -> None:
    """Refuse what is no image where only images are read."""
    if is_text(item, position):
        where, fix = f"input {position}", "give the file as pathlib.Path"
        raise UsageError("a str is a text, not an image", where=where, found=repr(item[:60]), fix=fix)


def require_pixels(pixels: Any, size: tuple[int, int]) -> None:
    """Refuse what the image tower cannot read: not normalized pixels (B, 3, H, W) of its size."""
    shape, wanted = tuple(getattr(pixels, "shape", ())), (3, *size)
    if len(shape) != 4 or shape[1:] != wanted or "float" not in str(pixels.dtype):
        found = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {shape}"
        expected = f"normalized float pixels (B, {', '.join(map(str, wanted))})"
        fix = "model.preprocess(image)[None] makes them of one image; encode takes images of any kind"
        raise UsageError("the image tower cannot read these", found=found, expected=expected, fix=fix)


def require_tokens(tokens: Any, vocab_size: int) -> None:
    """Refuse what the text tower cannot read: not token ids (B, L) of the model's vocabulary."""
    shape = tuple(getattr(tokens, "shape", ()))
    fits = len(shape) == 2 and "int" in str(tokens.dtype)
    if fits and 0 not in shape:
        fits = 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size
    if not fits:
        found = f"{getattr(tokens, 'dtype', type(tokens).__name__)} {shape}"
        expected, fix = f"token ids (B, L) from 0 to {vocab_size - 1}", "model.tokenize(texts) makes them"
        raise UsageError("the text tower cannot read these", found=found, expected=expected, fix=fix)


def text_lengths(tokens: NDArray[np.int64], end_id: int) -> NDArray[np.int64]:
    """Return (B,) int64: tokens of each row (B, L) up to and including its first end token.

    >>> text_lengths(np.array([[8, 3, 4, 9, 0], [8, 4, 9, 4, 9]]), 4).tolist()
    [3, 2]
    """
    is_end = tokens == end_id
    lengths: NDArray[np.int64] = is_end.argmax(axis=1) + 1
    missing = np.flatnonzero(~is_end.any(axis=1))
    if missing.size:
        where, found = f"row {missing[0]} of {len(tokens)}", f"{missing.size} such rows"
        expected = f"the end token (id {end_id}) in every row"
        fix = "tokenize with the model's own tokenizer, which keeps the end token when it cuts"
        raise DataError("a text has no end token", where=where, found=found, expected=expected, fix=fix)
    return lengths


def tokens_read(tokens: NDArray[np.int64], text: Any) -> NDArray[np.int64]:
    """Return how many tokens of each row (B, L) a text tower has to see.

    A causal tower is read at the first end token: what follows cannot change it. In a bidirectional one the
    padding takes part.
    """
    if getattr(text, "kind", "clip") != "clip":
        return np.full(len(tokens), tokens.shape[1], dtype=np.int64)
    return text_lengths(tokens, text.end_id)


def require_context(longest: int, context_length: int) -> None:
    """Raise a DataError for texts that are longer than the context."""
    if longest > context_length:
        what, found, expected = (
            "a text is longer than the model's context",
            f"{longest} tokens",
            f"at most {context_length}",
        )
        fix = "tokenize with the model's own tokenizer, which cuts long texts"
        raise DataError(what, found=found, expected=expected, fix=fix)


def image_pixels(image: ImageInput, preprocess: Preprocess) -> Pixels:
    """Return (H, W, 3) uint8 of an image of any kind, or raise BadSampleError with the reason."""
    if isinstance(image, np.ndarray):
        gray = image.ndim == 3 and image.shape[-1] == 1
        image = Image.fromarray(np.ascontiguousarray(image[..., 0] if gray else image))
    if isinstance(image, Image.Image):
        try:
            return evaluation_pixels(image, preprocess)
        except (OSError, ValueError, SyntaxError) as error:  # opened, but not decoded before
            raise BadSampleError(Reason.UNREADABLE_IMAGE, "the image cannot be read", found=error) from error
    return read_pixels(_bytes_of(image), preprocess)


def _bytes_of(image: Any) -> bytes:
    """Return the encoded file behind bytes, a path or a data URL."""
    if isinstance(image, str):
        _, base64_follows, coded = image.partition(";base64,")
        try:
            return base64.b64decode(coded.encode("ascii"), validate=bool(base64_follows))
        except (binascii.Error, UnicodeEncodeError) as error:
            what = "the data URL is not base64"
            raise BadSampleError(Reason.UNREADABLE_IMAGE, what, found=f"{image[:40]!r}…") from error
    if isinstance(image, os.PathLike):
        path = Path(image)
        try:
            with path.open("rb") as file:
                return file.read(DEFAULT_LIMITS.max_bytes + 1)  # one more, so that too long a file is seen
        except OSError as error:
            what, found = "the image's file cannot be read", error.strerror
            raise BadSampleError(Reason.MISSING_IMAGE, what, where=path, found=found) from error
    return bytes(image)


def _unknown(item: Any, where: str) -> UsageError:
    found = type(item).__name__
    if isinstance(item, np.ndarray):
        found = f"array of shape {item.shape}, {item.dtype}"
    what, fix = "this is neither a text nor an image", "tensors go into encode_image and encode_text"
    expected = "str, pathlib.Path, bytes, a Pillow image, or uint8 pixels (H, W, 3)"
    return UsageError(what, where=where, found=found, expected=expected, fix=fix)


def as_tensor(array: NDArray[Any]) -> "Tensor":
    """Return a tensor over an array's memory."""
    import torch

    return torch.from_numpy(array)
