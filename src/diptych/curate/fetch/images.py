"""Queue of downloaded images in front of the decoder processes.

Reads: encoded bytes. Writes: nothing.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from diptych.data.images.sandbox import Decode, DecodeResult, DecoderPool, DecoderSettings

WAITING = 64
"""Images that may wait for a decoder before whoever brings the next one has to."""
BATCH_ITEMS, BATCH_BYTES = 32, 2**20


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """The decoder's result for an image, and the SHA-256 of its bytes as they came."""

    result: DecodeResult
    sha256: str


_Waiting = tuple[bytes, "asyncio.Future[CheckedImage]"]


class ImageChecker:
    """Decoder processes behind a queue; an asynchronous context manager.

    Args:
        settings: how images are checked and made smaller.
        workers: decoder processes; 0 decodes in a thread of this one, unprotected.
    """

    def __init__(self, settings: DecoderSettings, workers: int) -> None:
        self._pool = DecoderPool(settings) if workers else None
        self._decode = None if workers else Decode(settings)
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="images")
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self._workers = max(1, workers)

    async def __aenter__(self) -> "ImageChecker":
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(self._workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._pool is not None:
            self._pool.close()
        self._threads.shutdown(wait=True)

    async def submit(self, image: bytes) -> "asyncio.Future[CheckedImage]":
        """Queue an image, waiting while too many are queued; the future is done when it is checked."""
        checked: asyncio.Future[CheckedImage] = asyncio.get_running_loop().create_future()
        await self._queue.put((image, checked))
        return checked

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            size = len(batch[0][0])
            while not self._queue.empty() and len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
                batch.append(self._queue.get_nowait())
                size += len(batch[-1][0])
            images = [image for image, _ in batch]
            found: Sequence[CheckedImage | Exception]
            try:
                found = await loop.run_in_executor(self._threads, self._check, images)
            except Exception as error:  # no decoder starts: everybody who waits has to know
                found = [error] * len(batch)
            for (_, waiting), checked in zip(batch, found, strict=True):
                _set_result(waiting, checked)

    def _check(self, images: Sequence[bytes]) -> list[CheckedImage]:
        digests = [hashlib.sha256(image).hexdigest() for image in images]
        if self._decode is not None:
            results = [self._decode(image) for image in images]
        else:
            assert self._pool is not None
            results = self._pool.check(images)
        return [CheckedImage(result, digest) for result, digest in zip(results, digests, strict=True)]


def _set_result(waiting: "asyncio.Future[CheckedImage]", checked: CheckedImage | Exception) -> None:
    if waiting.done():  # whoever waited was cancelled
        return
    if isinstance(checked, Exception):
        waiting.set_exception(checked)
    else:
        waiting.set_result(checked)
