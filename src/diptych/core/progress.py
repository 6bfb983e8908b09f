"""Progress on stderr: a live bar on a terminal, a plain line every few seconds anywhere else."""

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PLAIN_SECONDS = 5.0  # between two plain lines: a log of an hour stays under a thousand lines
SECONDS_PER_MINUTE, SECONDS_PER_HOUR = 60, 3600


class Progress:
    """Says how far a long job is, how fast it goes and what its figures are.

    Usage: `with Progress("packing", total=1000) as progress: progress.advance(10, dropped=1)`.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._figures: dict[str, object] = {}
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._started = self._spoken = clock()
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        """Begin; the clock for the rate starts here."""
        self._started = self._spoken = self._clock()
        if is_live(self._stream):
            from rich.console import Console  # rich takes 50 ms to import: only where something is drawn
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = BarColumn(bar_width=24), TextColumn("{task.description}", markup=False)
            self._bar = Bar(*columns, console=Console(file=self._stream))
            self._bar.add_task(self.line(), total=self.total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End with one last state, also after an error."""
        if self._bar is not None:
            self._show(self._bar)
            self._bar.stop()
            self._bar = None
        elif self.done:
            self.log(self.line())

    def advance(self, n: int = 1, /, **figures: object) -> None:
        """Count `n` more items as done and remember the newest figures by name."""
        self.done += n
        self._figures.update(figures)
        if self._bar is not None:
            self._show(self._bar)
        elif self._clock() - self._spoken >= PLAIN_SECONDS:
            self.log(self.line())

    def log(self, text: str) -> None:
        """Say one line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._spoken = self._clock()
            self._stream.write(text + "\n")
            self._stream.flush()

    def line(self) -> str:
        """Return the state as one plain line."""
        seconds = self._clock() - self._started
        rate = self.done / seconds if seconds > 0 else 0.0
        parts = [f"{self.done:,} of {self.total:,}" if self.total is not None else f"{self.done:,}"]
        if rate > 0:
            parts.append(f"{_number(rate)}/s")
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{_duration((self.total - self.done) / rate)} left" if rate > 0 else "")
        else:
            parts.append(_duration(seconds))
        parts += [f"{name} {_number(value)}" for name, value in self._figures.items()]
        return f"{self.title}: " + "  ".join(filter(None, parts))

    def _show(self, bar: "Bar") -> None:
        bar.update(bar.task_ids[0], completed=self.done, total=self.total, description=self.line())


def is_live(stream: TextIO) -> bool:
    """Tell whether a live bar may be drawn: on a terminal that was not asked to stay plain (no-color.org)."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def _number(value: object) -> str:
    """Write a figure short: whole numbers with separators, others with four digits.

    >>> _number(12345), _number(0.123456), _number("bf16"), _number(1234.5)
    ('12,345', '0.1235', 'bf16', '1,234')
    """
    if isinstance(value, float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: float) -> str:
    """Write a time span as people say it.

    >>> _duration(7.4), _duration(75), _duration(3725)
    ('7 s', '1:15 min', '1:02 h')
    """
    whole = round(seconds)
    if whole < SECONDS_PER_MINUTE:
        return f"{whole} s"
    if whole < SECONDS_PER_HOUR:
        return f"{whole // SECONDS_PER_MINUTE}:{whole % SECONDS_PER_MINUTE:02} min"
    return f"{whole // SECONDS_PER_HOUR}:{whole % SECONDS_PER_HOUR // SECONDS_PER_MINUTE:02} h"
