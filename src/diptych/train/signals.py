"""SIGTERM and SIGINT as a request: the step is finished and saved, a second signal ends the process."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Context manager whose `number` is that of the first signal that came, or None.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {caught: signal.signal(caught, self._note) for caught in CAUGHT}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for caught, handler in self._before.items():
            signal.signal(caught, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 — the handler's signature
        self.number = number
        for caught in CAUGHT:
            signal.signal(caught, signal.SIG_DFL)
