"""Progress: plain lines where nobody watches, a live bar where somebody does."""

import io
from itertools import count

import pytest

from diptych.core.progress import PLAIN_SECONDS, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_every_few_seconds_and_at_the_end() -> None:
    stream, clock = io.StringIO(), count(100, PLAIN_SECONDS / 25)
    now = [next(clock)]
    with Progress("packing", total=100, stream=stream, clock=lambda: now[0]) as progress:
        for _ in range(100):
            now[0] = next(clock)
            progress.advance(1, dropped=3)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "packing: 25 of 100  5/s  15 s left  dropped 3"
    assert lines[-1] == "packing: 100 of 100  5/s  20 s  dropped 3"
    assert len(lines) == 5


def test_plain_lines_hold_no_control_characters_and_nothing_goes_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    with Progress("packing", clock=lambda: now[0]) as progress:
        now[0] += 60
        progress.advance(12_345, loss=2.345678)
        progress.log("[one] note")
    state = "packing: 12,345  205.8/s  1:00 min  loss 2.346\n"
    assert capsys.readouterr() == ("", f"{state}[one] note\n{state}")


@pytest.mark.parametrize(
    ("name", "value", "live"),
    [("TERM", "xterm-256color", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)],
)
def test_a_terminal_gets_a_live_bar_unless_it_wants_none(
    name: str, value: str, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    stream = Terminal()
    with Progress("packing", total=4, stream=stream) as progress:
        progress.advance(4, n=2)
        progress.log("[a] note that stays")
    assert ("\x1b[" in stream.getvalue()) is live
    assert all(part in stream.getvalue() for part in ("packing: 4 of 4", "n 2", "[a] note that stays"))


def test_the_state_is_told_also_after_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Progress("packing", total=9, stream=stream) as progress:
        progress.advance(4)
        raise RuntimeError
    assert "4 of 9" in stream.getvalue()
