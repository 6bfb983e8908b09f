"""Decoding of untrusted images in worker processes, which may crash or hang without harm.

A worker decodes a chunk of images and returns one result each. The pool gives every worker a thread, so
that waiting costs nothing, and hands results back in the order the images came in. When a worker dies or
passes its deadline, the images of its chunk are tried again one by one, so that only the guilty one is
dropped.
"""

import io
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, TypeVar

from PIL import Image

from diptych.core.errors import BadSampleError, Reason
from diptych.core.settings import from_mapping
from diptych.core.workers import Handler, WorkerDiedError, WorkerPool
from diptych.data.images.decode import DEFAULT_LIMITS, ImageLimits, sound_jpeg
from diptych.data.images.resize import exact_window, shrinking_kernel

T = TypeVar("T")
DECODER = "diptych.data.images.transforms:decode"

_CHUNK_ITEMS = 64  # 10 ms of work for small images: the exchange itself (0.1 ms) is 1 % of it
_CHUNK_BYTES = 2**20  # few large images a chunk, so that one deadline fits both kinds
_MEMORY_BYTES = 8 * 2**30  # address space of a decoder: no image within the default limits needs a tenth
_SIZE = struct.Struct("<II")
JPEG_QUALITY = 95  # of re-encoded images: Pillow's advised maximum; beyond it only the files get larger


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """How images are checked.

    Attributes:
        limits: what an image may cost.
        resize: shortest side in pixels that larger images are scaled down and re-encoded to; None keeps the
            files.
        crop: with `resize`, keep the square in the center only; a smaller image loses no more than that.
        quality: of the JPEGs that are written, 1 to 100.
        timeout_seconds: for one image; a decoder that takes longer is stopped.
        decoder: the function that decodes, as "module:name".
    """

    limits: ImageLimits = DEFAULT_LIMITS
    resize: int | None = None
    crop: bool = False
    quality: int = JPEG_QUALITY
    timeout_seconds: float = 20.0
    decoder: str = DECODER


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """Result of decoding one image: a reason to drop it, or its new bytes where it was re-encoded.

    `size` is the width and height of the upright image that is kept, in pixels.
    """

    reason: Reason | None = None
    image: bytes | None = None
    size: tuple[int, int] | None = None


def decode_all(
    items: Iterable[T], image_of: Callable[[T], bytes], *, settings: DecoderSettings, workers: int
) -> Iterator[tuple[T, DecodeResult]]:
    """Decode every item's image and yield the items with their results, in order.

    Args:
        items: read a few chunks ahead of what is yielded.
        image_of: gives an item's encoded image.
        settings: how to check.
        workers: decoder processes; 0 decodes in this process, unprotected.

    Raises:
        EnvironmentFault: no decoder can be started.
    """
    if workers == 0:
        decode = Decode(settings)
        yield from ((item, decode(image_of(item))) for item in items)
        return
    pool = DecoderPool(settings)
    waiting: deque[tuple[list[T], Future[list[DecodeResult]]]] = deque()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
    try:
        for chunk in _chunks(items, image_of):
            waiting.append((chunk, threads.submit(pool.check, [image_of(item) for item in chunk])))
            # Two chunks a decoder: one that it works on, one that is ready when it is done.
            if len(waiting) >= 2 * workers:
                done, reply = waiting.popleft()
                yield from zip(done, reply.result(), strict=True)
        for done, reply in waiting:
            yield from zip(done, reply.result(), strict=True)
    finally:
        for _, reply in waiting:
            reply.cancel()
        pool.close()
        threads.shutdown(wait=True)


def _chunks(items: Iterable[T], image_of: Callable[[T], bytes]) -> Iterator[list[T]]:
    chunk: list[T] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += len(image_of(item))
        if len(chunk) >= _CHUNK_ITEMS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class DecoderPool:
    """Worker processes that decode; as many as threads ask at one time."""

    def __init__(self, settings: DecoderSettings) -> None:
        self._seconds = settings.timeout_seconds
        self._pool = WorkerPool(f"{__name__}:decode_handler", asdict(settings), memory_bytes=_MEMORY_BYTES)
        self.close = self._pool.close

    def check(self, images: Sequence[bytes]) -> list[DecodeResult]:
        """Decode a chunk; when that costs the worker its life, decode its images one by one."""
        try:
            replies = self._pool.ask(images, timeout_seconds=self._seconds)
        except (TimeoutError, WorkerDiedError) as error:
            if len(images) == 1:
                return [
                    DecodeResult(Reason.TIMEOUT if isinstance(error, TimeoutError) else Reason.DECODER_CRASH)
                ]
            return [result for image in images for result in self.check([image])]
        return [
            DecodeResult(
                Reason(reason.decode()) if reason else None,
                image or None,
                _SIZE.unpack(size) if size else None,
            )
            for reason, image, size in zip(replies[::3], replies[1::3], replies[2::3], strict=True)
        ]


def decode_handler(settings: Mapping[str, Any]) -> Handler:
    """Return what a worker does: three byte strings for each image, reason, new bytes and size."""
    decode = Decode(from_mapping(DecoderSettings, settings))

    def replies(images: list[bytes]) -> list[bytes]:
        parts: list[bytes] = []
        for result in map(decode, images):
            size = _SIZE.pack(*result.size) if result.size else b""
            parts += ((result.reason or "").encode(), result.image or b"", size)
        return parts

    return replies


class Decode:
    """Decodes one image in this process and says what is wrong with it."""

    def __init__(self, settings: DecoderSettings) -> None:
        module, _, name = settings.decoder.partition(":")
        self._decode: Callable[[bytes, ImageLimits], Image.Image] = getattr(import_module(module), name)
        self._settings = settings
        if settings.resize is not None:
            shrinking_kernel()  # compiles now, and not in the first image's time

    def __call__(self, image: bytes) -> DecodeResult:
        """Decode; and re-encode smaller where the settings ask for it."""
        try:
            return self._checked(image, self._settings)
        except BadSampleError as error:
            return DecodeResult(error.reason)
        except MemoryError:
            return DecodeResult(Reason.TOO_MANY_PIXELS)
        except Exception:  # a decoder may raise anything on untrusted bytes; none of it may stop a pack
            return DecodeResult(Reason.UNREADABLE_IMAGE)

    def _smaller(self, image: Image.Image, side: int) -> Image.Image:
        """Scale the shortest side down to `side`, or cut the center out; what is small enough stays."""
        scale = min(1.0, side / min(image.size))
        width, height = (max(1, round(length * scale)) for length in image.size)
        if not self._settings.crop or width == height:
            if scale == 1.0:
                return image
            covered = (height, width)
            return Image.fromarray(exact_window(image, covered, (0, 0), covered, "bicubic"))
        square = min(image.size)
        left, top = ((length - square) // 2 for length in image.size)
        box = (left, top, left + square, top + square)
        kept = min(side, square)
        return image.resize((kept, kept), Image.Resampling.BICUBIC, box=box)

    def _checked(self, data: bytes, settings: DecoderSettings) -> DecodeResult:
        if settings.resize is None and settings.decoder == DECODER:
            size = sound_jpeg(data, settings.limits)
            if size is not None:
                return DecodeResult(size=size)
        image = self._decode(data, settings.limits)
        kept = image if settings.resize is None else self._smaller(image, settings.resize)
        if kept is image:
            return DecodeResult(size=image.size)
        buffer = io.BytesIO()
        kept.save(buffer, "JPEG", quality=settings.quality)
        return DecodeResult(image=buffer.getvalue(), size=kept.size)
