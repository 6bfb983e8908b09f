"""What the comparisons share: contestants in processes of their own, asked in turn, and where it all ran.

A contestant reads questions and writes answers, one JSON line each. Only the one that was asked works; the
others wait in a read, so rounds can alternate between them and slow minutes of the machine fall on all.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


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
