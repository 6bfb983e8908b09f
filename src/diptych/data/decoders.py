"""Decoding of strangers' images in processes of their own, which may crash or hang without harm.

A decoder is the command ``python -m diptych.data.decoders``, joined by a socket pair: it reads a chunk of
images, decodes each, and answers with one verdict each. The pool gives every decoder a thread, so that
waiting costs nothing, and hands results back in the order the images came in. A decoder that dies or passes
its deadline is killed and replaced; the images of its chunk are tried again one by one, so that only the
guilty one is dropped.

Own processes rather than ``multiprocessing``: forking a process with threads (pyarrow has them) can lock up,
and spawning runs the user's script again. Nothing but bytes crosses the socket, so nothing is ever unpickled.
"""

import io
import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TypeVar

from PIL import Image

from diptych.core.errors import BadSampleError, EnvironmentFault
from diptych.core.records import Reason
from diptych.core.settings import from_mapping
from diptych.data.decoding import DEFAULT_LIMITS, ImageLimits, sound_jpeg
from diptych.data.resampling import exact_window, shrinking_kernel

T = TypeVar("T")
DECODER = "diptych.data.images:decode"

_CHUNK_ITEMS = 64  # 10 ms of work for small images: the exchange itself (0.1 ms) is 1 % of it
_CHUNK_BYTES = 2**20  # few large images a chunk, so that one deadline fits both kinds
_MEMORY_BYTES = 8 * 2**30  # address space of a decoder: no image within the default limits needs a tenth
_START_SECONDS = 60.0  # importing Pillow takes 0.2 s; a busy network disk may take far longer
_LENGTH = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<II")
JPEG_QUALITY = 95  # of re-encoded images: Pillow's advised maximum; beyond it only the files get larger


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """How images are checked.

    Attributes:
        limits: what an image may cost.
        resize: shortest side in pixels that larger images are scaled down and re-encoded to; None keeps the
            files.
        crop: with `resize`, keep the square in the centre only; a smaller image loses no more than that.
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
class Verdict:
    """What a decoder says of one image: a reason to drop it, or its new bytes where it was re-encoded.

    `size` is the width and height of the upright picture that is kept, in pixels.
    """

    reason: Reason | None = None
    image: bytes | None = None
    size: tuple[int, int] | None = None


def verdicts(
    items: Iterable[T], image_of: Callable[[T], bytes], *, settings: DecoderSettings, workers: int
) -> Iterator[tuple[T, Verdict]]:
    """Decode every item's image and yield the items with their verdicts, in order.

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
    waiting: deque[tuple[list[T], Future[list[Verdict]]]] = deque()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
    try:
        for chunk in _chunks(items, image_of):
            waiting.append((chunk, threads.submit(pool.check, [image_of(item) for item in chunk])))
            # Two chunks a decoder: one that it works on, one that is ready when it is done.
            if len(waiting) >= 2 * workers:
                done, answer = waiting.popleft()
                yield from zip(done, answer.result(), strict=True)
        for done, answer in waiting:
            yield from zip(done, answer.result(), strict=True)
    finally:
        for _, answer in waiting:
            answer.cancel()
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
    """Decoder processes that stand ready; as many as threads ask at one time."""

    def __init__(self, settings: DecoderSettings) -> None:
        self.settings = settings
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        self._alive: set[_Decoder] = set()
        self._lock = threading.Lock()
        self._closed = False

    def check(self, images: Sequence[bytes]) -> list[Verdict]:
        """Decode a chunk; when that costs the decoder its life, decode its images one by one."""
        answer = self._ask(images)
        if not isinstance(answer, Reason):
            return answer
        if len(images) == 1:
            return [Verdict(answer)]
        return [verdict for image in images for verdict in self.check([image])]

    def close(self) -> None:
        """End all decoders, at work or not."""
        with self._lock:
            self._closed = True
            for decoder in self._alive:
                decoder.stop()
            self._alive.clear()

    def _ask(self, images: Sequence[bytes]) -> list[Verdict] | Reason:
        decoder = self._take()
        try:
            answer = decoder.ask(images, self.settings.timeout_seconds)
        except TimeoutError:
            self._retire(decoder)
            return Reason.TIMEOUT
        except (OSError, EOFError):
            self._retire(decoder)
            return Reason.DECODER_CRASH
        self._idle.put(decoder)
        return answer

    def _take(self) -> "_Decoder":
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            if self._closed:
                raise EnvironmentFault("the decoders were closed while images waited")
            decoder = _Decoder(self.settings)
            self._alive.add(decoder)
        decoder.greet()
        return decoder

    def _retire(self, decoder: "_Decoder") -> None:
        with self._lock:
            self._alive.discard(decoder)
        decoder.stop()


class _Decoder:
    """One decoder process and the socket to it."""

    def __init__(self, settings: DecoderSettings) -> None:
        self.socket, theirs = socket.socketpair()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "diptych.data.decoders"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its decoders
            )
        self._settings = settings

    def greet(self) -> None:
        """Send the settings and wait until the decoder stands ready.

        Raises:
            EnvironmentFault: it does not start.
        """
        try:
            said = json.dumps(asdict(self._settings)).encode()
            _send(self.socket, [said], time.monotonic() + _START_SECONDS)
            _receive(self.socket, time.monotonic() + _START_SECONDS)
        except (OSError, EOFError) as error:
            self.stop()
            raise EnvironmentFault(
                "a decoder process does not start",
                found=f"{type(error).__name__}, exit status {self.process.returncode}",
                expected="an answer",
                fix="see what it wrote to stderr above; --set workers=0 decodes without processes",
            ) from None

    def ask(self, images: Sequence[bytes], seconds: float) -> list[Verdict]:
        """Have images decoded within a time.

        Raises:
            TimeoutError: it took longer.
            OSError, EOFError: the process ended.
        """
        deadline = time.monotonic() + seconds
        _send(self.socket, images, deadline)
        answers = _receive(self.socket, deadline)
        if len(answers) != 3 * len(images):
            raise EOFError
        return [
            Verdict(
                Reason(reason.decode()) if reason else None,
                image or None,
                _SIZE.unpack(size) if size else None,
            )
            for reason, image, size in zip(answers[::3], answers[1::3], answers[2::3], strict=True)
        ]

    def stop(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())


def _send(wire: socket.socket, blobs: Sequence[bytes], deadline: float | None) -> None:
    lengths = b"".join(_LENGTH.pack(len(blob)) for blob in blobs)
    wire.settimeout(_left(deadline))
    wire.sendall(b"".join((_COUNT.pack(len(blobs)), lengths, *blobs)))


def _receive(wire: socket.socket, deadline: float | None) -> list[bytes]:
    count = _COUNT.unpack(_exactly(wire, _COUNT.size, deadline))[0]
    lengths = [size for (size,) in _LENGTH.iter_unpack(_exactly(wire, count * _LENGTH.size, deadline))]
    body = memoryview(_exactly(wire, sum(lengths), deadline))
    blobs: list[bytes] = []
    for size in lengths:
        blobs.append(bytes(body[:size]))
        body = body[size:]
    return blobs


def _exactly(wire: socket.socket, size: int, deadline: float | None) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        wire.settimeout(_left(deadline))
        got = wire.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return buffer


class Decode:
    """Decodes one image in this process and says what is wrong with it."""

    def __init__(self, settings: DecoderSettings) -> None:
        module, _, name = settings.decoder.partition(":")
        self._decode: Callable[[bytes, ImageLimits], Image.Image] = getattr(import_module(module), name)
        self._settings = settings
        if settings.resize is not None:
            shrinking_kernel()  # compiles now, and not in the first picture's time

    def __call__(self, image: bytes) -> Verdict:
        """Decode; and re-encode smaller where the settings ask for it."""
        try:
            return self._judged(image, self._settings)
        except BadSampleError as error:
            return Verdict(error.reason)
        except MemoryError:
            return Verdict(Reason.TOO_MANY_PIXELS)
        except Exception:  # a decoder may raise anything on a stranger's bytes; none of it may stop a pack
            return Verdict(Reason.UNREADABLE_IMAGE)

    def _smaller(self, picture: Image.Image, side: int) -> Image.Image:
        """Scale the shortest side down to `side`, or cut the centre out; what is small enough stays."""
        scale = min(1.0, side / min(picture.size))
        width, height = (max(1, round(length * scale)) for length in picture.size)
        if not self._settings.crop or width == height:
            if scale == 1.0:
                return picture
            covered = (height, width)
            return Image.fromarray(exact_window(picture, covered, (0, 0), covered, "bicubic"))
        square = min(picture.size)
        left, top = ((length - square) // 2 for length in picture.size)
        box = (left, top, left + square, top + square)
        kept = min(side, square)
        return picture.resize((kept, kept), Image.Resampling.BICUBIC, box=box)

    def _judged(self, image: bytes, settings: DecoderSettings) -> Verdict:
        if settings.resize is None and settings.decoder == DECODER:
            size = sound_jpeg(image, settings.limits)
            if size is not None:
                return Verdict(size=size)
        picture = self._decode(image, settings.limits)
        kept = picture if settings.resize is None else self._smaller(picture, settings.resize)
        if kept is picture:
            return Verdict(size=picture.size)
        buffer = io.BytesIO()
        kept.save(buffer, "JPEG", quality=settings.quality)
        return Verdict(image=buffer.getvalue(), size=kept.size)


def serve(wire: socket.socket) -> None:
    """Answer chunk after chunk until the other side closes; what a decoder process does."""
    settings = from_mapping(DecoderSettings, json.loads(_receive(wire, None)[0]))
    decode = Decode(settings)
    _send(wire, [b"ready"], None)
    while True:
        try:
            images = _receive(wire, None)
        except (EOFError, ConnectionError):
            return
        # The parent kills a decoder that hangs; this timer ends it when the parent was killed itself.
        signal.setitimer(signal.ITIMER_REAL, 2 * settings.timeout_seconds)
        answers: list[bytes] = []
        for verdict in map(decode, images):
            size = _SIZE.pack(*verdict.size) if verdict.size else b""
            answers += ((verdict.reason or "").encode(), verdict.image or b"", size)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(wire, answers, None)


def _main() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=os.dup(0)) as wire:
        os.dup2(2, 1)  # what a decoder library prints must not mix with the answers
        serve(wire)


if __name__ == "__main__":
    _main()
