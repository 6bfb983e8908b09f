"""Pool of worker processes, started on demand and reused between stages.

A worker is the command ``python -m diptych.core.workers``, joined by a socket pair. It imports one function,
calls it with the pool's settings, and gives every request, a list of byte strings, to what that returned. A
worker that dies or passes its deadline is killed; the next request starts another.

Own processes rather than ``multiprocessing``'s: forking a process with threads (pyarrow has them) can lock
up, and spawning runs the user's script again. Only bytes cross its `Connection`, nothing is ever unpickled.
"""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from diptych.core.errors import EnvironmentFault

Blobs = Sequence[bytes]
Handler = Callable[[list[bytes]], Blobs]  # what a task makes of its settings: it answers requests

START_SECONDS = 60.0  # importing Pillow takes 0.2 s; a busy network disk may take far longer


class WorkerDiedError(Exception):
    """A worker process ended before it had answered; `status` is its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def handler_of(task: str, settings: Mapping[str, Any]) -> Handler:
    """Return what answers the requests of a task, "module:function", in this process."""
    module, _, name = task.partition(":")
    handler: Handler = getattr(import_module(module), name)(settings)
    return handler


class WorkerPool:
    """Worker processes that stand ready; as many as threads ask at one time.

    Args:
        task: "module:function"; the function takes the settings and returns a `Handler`.
        settings: plain values that JSON can hold.
        memory_bytes: address space of a worker, on Linux; 0 for no limit.
        environment: variables of the workers, beside those of this process.
    """

    def __init__(
        self,
        task: str,
        settings: Mapping[str, Any],
        *,
        memory_bytes: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._greeting = [json.dumps([task, settings, memory_bytes]).encode()]
        self._environment = environment or {}
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._alive: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, request: Blobs, *, timeout_seconds: float | None = None) -> list[bytes]:
        """Have one request answered; threads may ask at the same time.

        Raises:
            TimeoutError: it took longer; the worker is gone.
            WorkerDiedError: the worker ended over it.
            EnvironmentFault: no worker can be started, or the pool was closed.
        """
        worker = self._acquire()
        try:
            reply = worker.ask(request, timeout_seconds)
        except BaseException as error:
            with self._lock:
                self._alive.discard(worker)
            status = worker.stop()
            if isinstance(error, OSError | EOFError) and not isinstance(error, TimeoutError):
                raise WorkerDiedError(status) from None
            raise
        self._idle.put(worker)
        return reply

    def close(self) -> None:
        """End all workers, at work or not."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.stop()
            self._alive.clear()

    def _acquire(self) -> "_Worker":
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            if self._closed:
                raise EnvironmentFault("the workers were closed while requests waited")
            worker = _Worker(self._environment)
            self._alive.add(worker)
        worker.greet(self._greeting)
        return worker


class _Worker:
    """One worker process and the connection to it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self.wire = Connection(ours.detach())
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "diptych.core.workers"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env={**os.environ, **environment, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )

    def greet(self, greeting: Blobs) -> None:
        try:
            self.ask(greeting, START_SECONDS)
        except (OSError, EOFError) as error:
            raise EnvironmentFault(
                "a worker process does not start",
                found=f"{type(error).__name__}, exit status {self.stop()}",
                expected="an answer",
                fix="see what it wrote to stderr above; workers = 0 does the work in this process",
            ) from None

    def ask(self, request: Blobs, seconds: float | None) -> list[bytes]:
        _send(self.wire, [json.dumps(seconds).encode(), *request])
        if not self.wire.poll(seconds):
            raise TimeoutError
        return _receive(self.wire)

    def stop(self) -> int:
        self.process.kill()
        status = self.process.wait()
        self.wire.close()
        return status


def _send(wire: "Connection[bytes, bytes]", blobs: Blobs) -> None:
    wire.send_bytes(b"%d" % len(blobs))
    for blob in blobs:
        wire.send_bytes(blob)


def _receive(wire: "Connection[bytes, bytes]") -> list[bytes]:
    return [wire.recv_bytes() for _ in range(int(wire.recv_bytes()))]


def serve(wire: "Connection[bytes, bytes]") -> None:
    """Answer requests until the other side closes; what a worker process does."""
    _, greeting = _receive(wire)
    task, settings, memory_bytes = json.loads(greeting)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    handler = handler_of(task, settings)
    _send(wire, [b"ready"])
    while True:
        try:
            limit, *request = _receive(wire)
        except (EOFError, ConnectionError):
            return
        # The parent kills a worker that hangs; this timer ends it when the parent was killed itself.
        signal.setitimer(signal.ITIMER_REAL, 2 * (json.loads(limit) or 0))
        reply = handler(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(wire, reply)


if __name__ == "__main__":
    with Connection(os.dup(0)) as parent:
        os.dup2(2, 1)  # what a library prints must not mix with the answers
        serve(parent)
