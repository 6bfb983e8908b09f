"""What the comparisons share: contestants in processes of their own, asked in turn, and where it all ran.

A contestant reads questions and writes answers, one JSON line each. Only the one that was asked works; the
others wait in a read, so rounds can alternate between them and slow minutes of the machine fall on all. What
children say on standard error is shown: of a peer that is missing or fails, the reason.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_FIND = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if u.find_spec(m) is None])"


class Contestant:
    """One process that answers questions."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
        )

    def ask(self, **question: Any) -> Any:
        """Return the answer to one question; the whole comparison ends if the process does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.command)} ended with code {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process and wait for it: its memory is free for the next case."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def answer_questions(answers: dict[str, Callable[..., Any]]) -> None:
    """Serve as a contestant until the questions end: each names what to `do` and carries its arguments."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print must not end up between the answers
    for line in sys.stdin:
        question = json.loads(line)
        answer = answers[question.pop("do")](**question)
        out.write(json.dumps(answer) + "\n")
        out.flush()


def run_child(command: Sequence[str], **options: Any) -> str:
    """Run a process to its end and return its output; the benchmark ends with its error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with code {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def options_of(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Read the options.

    Args:
        parser: with all options but --quick.
        quick: defaults that --quick takes instead: a minute at most, and the ratio keeps its sign.
    """
    told = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in quick.items())
    parser.add_argument("--quick", action="store_true", help=f"a minute: {told}")
    if "--quick" in sys.argv[1:]:
        parser.set_defaults(**quick)
    return parser.parse_args()


def missing(python: str | None, *modules: str) -> str:
    """Say why a peer cannot be measured; nothing if it can."""
    if not python:
        return "no --peer-python (make peers; DIPTYCH_PEERS_PYTHON)"
    try:
        absent = run_child([python, "-c", _FIND, *modules]).strip()
    except OSError as error:
        return f"{python} does not start: {error.strerror}"
    return "" if absent == "[]" else f"{python} has no {absent}"


def skip(name: str, reason: str) -> dict[str, str]:
    """Print that a row is left out, and return its entry for the result."""
    print(f"{name}: skipped, {reason}", file=sys.stderr, flush=True)
    return {name: reason}


class Rows:
    """Prints each row when it is measured, with about how long the others will take.

    Args:
        total: how many there will be.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.begun = total, 0, time.monotonic()

    def show(self, name: str, row: Any) -> None:
        """Print one row."""
        self.done += 1
        left = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
        text = row if isinstance(row, str) else json.dumps(row)
        print(f"[{self.done}/{self.total}, {left:.0f} s left] {name}: {text}", file=sys.stderr, flush=True)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median of the rounds' ratios theirs / ours."""
    return round(statistics.median(their / our for their, our in zip(theirs, ours, strict=True)), 3)


def machine() -> dict[str, Any]:
    """Describe where this ran."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {
        "cpu": sorted({line.split(":")[1].strip() for line in lines if line.startswith("model name")}),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def write_result(result: dict[str, Any], path: str | Path | None) -> None:
    """Write JSON to standard output, and to a file if there is one."""
    text = json.dumps(result, indent=1)
    print(text)
    if path:
        Path(path).write_text(text + "\n", encoding="utf-8")
