"""Pictures as they come in, judged by decoder processes while others are still on their way.

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
"""Pictures that may wait for a decoder before whoever brings the next one has to."""
BATCH_ITEMS, BATCH_BYTES = 32, 2**20


@dataclass(frozen=True, slots=True)
class Judged:
    """A decoder's verdict on a picture, and the SHA-256 of its bytes as they came."""

    verdict: DecodeResult
    sha256: str


_Waiting = tuple[bytes, "asyncio.Future[Judged]"]


class Pictures:
    """Decoders behind a queue; an asynchronous context.

    Args:
        settings: how pictures are checked and made smaller.
        workers: decoder processes; 0 decodes in a thread of this one, unprotected.
    """

    def __init__(self, settings: DecoderSettings, workers: int) -> None:
        self._pool = DecoderPool(settings) if workers else None
        self._decode = None if workers else Decode(settings)
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="pictures")
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self._workers = max(1, workers)

    async def __aenter__(self) -> "Pictures":
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

    async def hand_in(self, image: bytes) -> "asyncio.Future[Judged]":
        """Queue a picture, waiting while too many are queued; the future is done when it is judged."""
        judged: asyncio.Future[Judged] = asyncio.get_running_loop().create_future()
        await self._queue.put((image, judged))
        return judged

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            size = len(batch[0][0])
            while not self._queue.empty() and len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
                batch.append(self._queue.get_nowait())
                size += len(batch[-1][0])
            images = [image for image, _ in batch]
            found: Sequence[Judged | Exception]
            try:
                found = await loop.run_in_executor(self._threads, self._judge, images)
            except Exception as error:  # no decoder starts: everybody who waits has to know
                found = [error] * len(batch)
            for (_, waiting), judged in zip(batch, found, strict=True):
                _answer(waiting, judged)

    def _judge(self, images: Sequence[bytes]) -> list[Judged]:
        digests = [hashlib.sha256(image).hexdigest() for image in images]
        if self._decode is not None:
            verdicts = [self._decode(image) for image in images]
        else:
            assert self._pool is not None
            verdicts = self._pool.check(images)
        return [Judged(verdict, digest) for verdict, digest in zip(verdicts, digests, strict=True)]


def _answer(waiting: "asyncio.Future[Judged]", judged: Judged | Exception) -> None:
    if waiting.done():  # whoever waited was cancelled
        return
    if isinstance(judged, Exception):
        waiting.set_exception(judged)
    else:
        waiting.set_result(judged)
