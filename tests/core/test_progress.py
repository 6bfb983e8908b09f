"""Progress: plain lines where nobody watches, a live bar where somebody does."""

import io
import subprocess
import sys

import pytest

from diptych.core.progress import PLAIN_SECONDS, Progress, is_live


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_every_few_seconds_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("packing", total=100, stream=stream, clock=clock) as progress:
        for _ in range(100):
            clock.now += PLAIN_SECONDS / 25
            progress.advance(1, dropped=3)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "packing: 25 of 100  5/s  15 s left  dropped 3"
    assert lines[-1] == "packing: 100 of 100  5/s  20 s  dropped 3"
    assert len(lines) == 5


def test_plain_lines_hold_no_control_characters() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("packing", stream=stream, clock=clock) as progress:
        clock.now += 60
        progress.advance(12_345, loss=2.345678)
        progress.log("[one] note")
    state = "packing: 12,345  205.8/s  1:00 min  loss 2.346\n"
    assert stream.getvalue() == f"{state}[one] note\n{state}"


def test_a_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with Progress("packing", total=4, stream=stream) as progress:
        progress.advance(4, n=2)
        progress.log("[a] note that stays")
    assert "\x1b[" in stream.getvalue() and "4/4" in stream.getvalue()
    assert "[a] note that stays" in stream.getvalue()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_color_gets_plain_lines(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    stream = Terminal()
    assert not is_live(stream)
    with Progress("packing", total=4, stream=stream) as progress:
        progress.advance(4)
    assert "\x1b" not in stream.getvalue() and "4 of 4" in stream.getvalue()


def test_the_state_is_told_also_after_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Progress("packing", total=9, stream=stream) as progress:
        progress.advance(4)
        raise RuntimeError
    assert "4 of 9" in stream.getvalue()


def test_nothing_goes_to_stdout() -> None:
    code = (
        "from diptych.core.progress import Progress\n"
        "with Progress('x', total=1) as progress: progress.advance(1); progress.log('hi')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and "1 of 1" in done.stderr and "hi" in done.stderr
