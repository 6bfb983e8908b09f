"""Decoding of untrusted images in worker processes, which may crash or hang without harm.

A worker decodes a chunk of images and returns one result each. The pool gives every worker a thread, so
that waiting costs nothing, and hands results back in the order the images came in. When a worker dies or
passes its deadline, the images of its chunk are tried again one by one, so that only the guilty one is
dropped.
"""

import io
import json
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
from diptych.data.images.decode import sound_jpeg
from diptych.data.images.limits import DEFAULT_LIMITS, ImageLimits
from diptych.data.images.resize import Window, exact_window, shrinking_kernel

T = TypeVar("T")
DECODER = "diptych.data.images.transforms:decode"

_CHUNK_ITEMS = 64  # 10 ms of work for small images: the exchange itself (0.1 ms) is 1 % of it
_CHUNK_BYTES = 2**20  # few large images a chunk, so that one deadline fits both kinds
_MEMORY_BYTES = 8 * 2**30  # address space of a decoder: no image within the default limits needs a tenth
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
    """A reason to drop an image, or its new bytes if it was re-encoded, and its upright width and height."""

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
        workers: decoder processes; 0 decodes in this process, unprotected.

    Raises:
        EnvironmentFault: no decoder can be started.
    """
    if workers == 0:
        decode = decoder(settings)
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
            if len(images) > 1:
                return [result for image in images for result in self.check([image])]
            return [DecodeResult(Reason.TIMEOUT if isinstance(error, TimeoutError) else Reason.DECODER_CRASH)]
        results = []
        for header, image in zip(replies[::2], replies[1::2], strict=True):
            reason, size = json.loads(header)
            results.append(DecodeResult(reason and Reason(reason), image or None, size and tuple(size)))
        return results


def decode_handler(settings: Mapping[str, Any]) -> Handler:
    """Return what a worker does: for each image [reason, size] as JSON, and its new bytes or none."""
    decode = decoder(from_mapping(DecoderSettings, settings))

    def replies(images: list[bytes]) -> list[bytes]:
        parts: list[bytes] = []
        for result in map(decode, images):
            parts += (json.dumps([result.reason, result.size]).encode(), result.image or b"")
        return parts

    return replies


def decoder(settings: DecoderSettings) -> Callable[[bytes], DecodeResult]:
    """Return a function that decodes one image in this process, and re-encodes it if the settings say so."""
    module, _, name = settings.decoder.partition(":")
    decode: Callable[[bytes, ImageLimits], Image.Image] = getattr(import_module(module), name)
    if settings.resize is not None:
        shrinking_kernel()  # compiles now, and not in the first image's time

    def check(data: bytes) -> DecodeResult:
        try:
            if settings.resize is not None:
                return _reencoded(decode(data, settings.limits), settings, settings.resize)
            size = sound_jpeg(data, settings.limits) if settings.decoder == DECODER else None
            return DecodeResult(size=size or decode(data, settings.limits).size)
        except BadSampleError as error:
            return DecodeResult(error.reason)
        except MemoryError:
            return DecodeResult(Reason.TOO_MANY_PIXELS)
        except Exception:  # a decoder may raise anything on untrusted bytes; none of it may stop a pack
            return DecodeResult(Reason.UNREADABLE_IMAGE)

    return check


def _reencoded(image: Image.Image, settings: DecoderSettings, side: int) -> DecodeResult:
    """Scale the shortest side down to `side`, or cut the center out; what is small enough stays."""
    square = min(image.size)
    scale = min(1.0, side / square)
    if settings.crop and image.width != image.height:
        left, top = ((length - square) // 2 for length in image.size)
        kept = min(side, square)
        box = (left, top, left + square, top + square)
        image = image.resize((kept, kept), Image.Resampling.BICUBIC, box=box)
    elif scale < 1.0:
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = Image.fromarray(
            exact_window(image, Window((height, width), (0, 0), (height, width), "bicubic"))
        )
    else:
        return DecodeResult(size=image.size)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=settings.quality)
    return DecodeResult(image=buffer.getvalue(), size=image.size)
