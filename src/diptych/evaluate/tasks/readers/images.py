"""Turn what a data set holds, videos and old formats included, into the bytes of one image.

Reads: images as they are; PPM (German Traffic Signs); the middle frame of a video, as the paper does.
Source: Radford et al. 2021, appendix A.1, for the frame.
"""

from itertools import islice
from pathlib import Path

import numpy as np

from diptych.core.errors import BadSampleError, MissingPackageError, Reason
from diptych.data.images.limits import MAX_PIXELS
from diptych.data.sources.rows import read_image
from diptych.evaluate.tasks.readers.examples import png

VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mkv", ".webm"})


def picture_bytes(image: bytes | Path) -> bytes:
    """Return the encoded image of an example.

    Args:
        image: encoded bytes, or the path of an image or video.

    Raises:
        BadSampleError: it is missing or cannot be read.
        MissingPackageError: a video needs PyAV.
    """
    if isinstance(image, Path) and image.suffix.lower() in VIDEO_SUFFIXES:
        return middle_frame(image)
    data = read_image(image) if isinstance(image, Path) else image
    return _from_ppm(data) if data.startswith(b"P6") else data


def middle_frame(path: Path) -> bytes:
    """Return the frame in the middle of a video as PNG: frame n // 2 of n.

    Raises:
        BadSampleError: the file is missing or holds no frame.
        MissingPackageError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingPackageError(
            "reading videos needs PyAV", where=path, fix="pip install 'diptych[video]'"
        ) from None
    if not path.is_file():
        raise BadSampleError(Reason.MISSING_IMAGE, where=path)
    try:
        with av.open(str(path)) as video:
            total = sum(1 for _ in video.decode(video=0))  # what the header says is often wrong
        with av.open(str(path)) as video:
            frame = next(islice(video.decode(video=0), total // 2, None))
            return png(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, ValueError, StopIteration) as error:
        found = str(error) or "a video without frames"
        raise BadSampleError(Reason.UNREADABLE_IMAGE, where=path, found=found) from None


def _from_ppm(data: bytes) -> bytes:
    """Turn a binary PPM of 8 bits into PNG; anything else is left as it is and refused by the decoder."""
    words = data[:64].split(maxsplit=4)
    if len(words) < 4 or not all(word.isdigit() for word in words[1:4]) or words[3] != b"255":
        return data
    width, height = int(words[1]), int(words[2])
    size = width * height * 3
    pixels = data[data.index(words[3], data.index(words[2], data.index(words[1], 2) + len(words[1]))) + 4 :]
    if not 0 < width * height <= MAX_PIXELS or len(pixels) < size:
        return data
    return png(np.frombuffer(pixels[:size], dtype=np.uint8).reshape(height, width, 3))
