"""Encoded image bytes in, an upright 8-bit RGB image out; untrusted content gets no further.

Limits come before work: bytes, then format (by its first bytes), then the header's pixels, and only then
decoding. Any failure of the decoder is a `BadSampleError` with a reason, never another exception.

Source: the order of checks follows Pillow's security notes. Plain JPEGs go through libjpeg-turbo directly
where `simplejpeg` is installed (see `jpeg`); everything else is Pillow's.
"""

import io
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from diptych.core.errors import BadSampleError, Reason
from diptych.data.images.jpeg import Pixels, plain_jpeg
from diptych.data.images.limits import DEFAULT_LIMITS, ImageLimits, check_format, check_scans, check_size

T = TypeVar("T")
Size = tuple[int, int]

ORIENTATION_TAG = 0x0112
SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange height and width; numbers outside 1 to 8 count as upright."""
STEPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Direction in which rows and columns are read, after height and width were exchanged."""
EXIF_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Python's warning filters belong to the process: two threads that change them at once can leave them changed.
# Only header reading is held (Python code, which the interpreter serializes anyway), never pixel decoding.
_HEADER_LOCK = threading.Lock()


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an encoded image to 8-bit RGB, turned upright; of an animation, the first frame.

    Modes are turned into RGB by `to_rgb`; alpha is dropped, not blended.

    Raises:
        BadSampleError: with the reason.
    """
    plain = plain_jpeg(data, limits)
    array = None if plain is None or plain.may_be_turned else plain.decode()
    if array is not None:
        return Image.fromarray(array)
    return decode_with(data, limits, lambda image: to_rgb(upright(image)))


def decode_with(data: bytes, limits: ImageLimits, use: Callable[[Image.Image], T]) -> T:
    """Return what `use` makes of the image, loaded, in the mode and the orientation that the file stores.

    Raises:
        BadSampleError: with the reason; whatever decoding or `use` raises is the sample's fault.
    """
    image, name = _open(data, limits)
    try:
        image.load()
        return use(image)
    except Exception as error:  # whatever a decoder raises on hostile bytes, the sample is what is at fault
        _refuse(error, data, name)


def orientation(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> int:
    """Return the EXIF orientation of a file, 1 (upright) to 8; nothing is decoded.

    Raises:
        BadSampleError: the header is unreadable or beyond the limits.
    """
    return _orientation(_open(data, limits)[0])


def sound_jpeg(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Size | None:
    """Return the upright width and height of a JPEG that decodes; None: `decode` has to look at the file.

    All of its bits are read, but only the lowest frequencies become pixels: sooner than decoding.

    Raises:
        BadSampleError: if the file or its header is beyond the limits.
    """
    plain = plain_jpeg(data, limits)
    if plain is None or plain.decode(at_least=(1, 1)) is None:
        return None
    turn = orientation(data, limits) if plain.may_be_turned else 1
    return swapped(plain.size, turn)[::-1]


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says."""
    image.load()  # turns a TIFF
    turn = EXIF_UPRIGHT.get(_orientation(image))
    if turn is None:
        return image
    image = image.transpose(turn)
    image.info.clear()  # it still holds the EXIF data, and the next reader would turn the image again
    return image


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels (H, W, …) upright, as Pillow's `transpose` does in twice the time.

    >>> turned(np.arange(6, dtype=np.uint8).reshape(2, 3), 6).tolist()
    [[3, 0], [4, 1], [5, 2]]
    """
    if orientation in SIDEWAYS:
        pixels = np.swapaxes(pixels, 0, 1)
    rows, columns = STEPS.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::rows, ::columns])


def swapped(size: Size, orientation: int) -> Size:
    """Return (height, width) in the other frame, upright for stored and stored for upright."""
    return size[::-1] if orientation in SIDEWAYS else size


def stored_corner(whole: Size, corner: Size, size: Size, orientation: int) -> Size:
    """Return top and left, in the stored image, of a window of the upright one; all sizes are upright.

    >>> stored_corner((30, 20), (5, 2), (10, 10), 6)
    (8, 5)
    """
    ends = whole[0] - size[0] - corner[0], whole[1] - size[1] - corner[1]
    down, across = STEPS.get(orientation, (1, 1))
    return swapped((corner[0] if down > 0 else ends[0], corner[1] if across > 0 else ends[1]), orientation)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any Pillow mode into 8-bit RGB.

    Same as `image.convert("RGB")`, except for grayscale of more than 8 bits: Pillow clips it at 255 (nearly
    all white), here 16-bit values are divided by 257 and rounded, 32-bit integers are clipped to 16 bits
    first, and floats are taken as 0..1 if none is above 1, else as 0..255.

    >>> to_rgb(Image.new("I;16", (1, 1), 65535 // 2)).getpixel((0, 0))
    (127, 127, 127)
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        scaled = values * 255 if values.max(initial=0.0) <= 1.0 else values
        return Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8)).convert("RGB")
    # Pillow drops a palette's transparency and warns; dropped first, it is quiet.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _open(data: bytes, limits: ImageLimits) -> tuple[Image.Image, str]:
    """Read the header with the one decoder that the signature names, and hold it against the limits."""
    name = check_format(data, limits)
    try:
        # Pillow's warnings here concern metadata (EXIF, MPO, APNG) or sizes that `check_size` judges itself.
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=(name,))
    except Exception as error:
        _refuse(error, data, name)
    check_size(image.width, image.height, limits)
    if name == "JPEG":
        check_scans(data, image.width, image.height, limits)
    return image, name


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 where there is none or it is damaged: the pixels are still good."""
    try:
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _refuse(error: Exception, data: bytes, name: str) -> NoReturn:
    """Turn whatever a decoder raised into a reason."""
    if isinstance(error, BadSampleError):
        raise error
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):  # its message names an object in memory
        message = "a header that no decoder accepts"
    reason, what = Reason.UNREADABLE_IMAGE, f"the {name} file cannot be decoded"
    if isinstance(error, MemoryError | Image.DecompressionBombError):
        reason, what = Reason.TOO_MANY_PIXELS, "the image is too large to decode"
    elif _is_cut(data, name):
        reason, what = Reason.TRUNCATED_IMAGE, f"the {name} file is cut off"
        message = f"{len(data):,} bytes; {message}"
    raise BadSampleError(reason, what, found=message) from error


def _is_cut(data: bytes, name: str) -> bool:
    """Say whether the file lacks its end, by the format's own end mark or length, not by a decoder's message.

    >>> _is_cut(b"\\xff\\xd8\\xff...", "JPEG"), _is_cut(b"\\xff\\xd8\\xff...\\xff\\xd9", "JPEG")
    (True, False)
    """
    match name:
        case "JPEG":
            return b"\xff\xd9" not in data[-64:]  # some writers pad after the end mark
        case "PNG":
            return b"IEND" not in data[-64:]
        case "GIF":
            return not data.rstrip(b"\x00").endswith(b";")
        case "WEBP":
            return len(data) < int.from_bytes(data[4:8], "little") + 8
        case "BMP":
            return len(data) < int.from_bytes(data[2:6], "little")
    return False
