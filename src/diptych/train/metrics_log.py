"""Metrics log of a run: a line of `metrics.jsonl` every few steps, and the progress line.

Writes: `metrics.jsonl`. A step's line holds step, samples_seen, epoch, loss (mean since the line before),
ln_n, scale, lr, grad_norm, samples_per_second, data_wait_fraction, cpu_wait_fraction (for a processor; null
where the system does not say) and skipped; an evaluation's line holds step, evaluation and metrics.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diptych.core.files.durable import append_line, write_text
from diptych.core.machine import seconds_waited
from diptych.core.progress import Progress
from diptych.core.records import Metric
from diptych.data.loader import Batch
from diptych.train.steps import StepResult

# From this share of its time spent waiting for a processor on, the log says that the machine is busy
BUSY_FRACTION = 0.25
STALL_FRACTION = 0.98  # A loss above this share of ln N has learnt next to nothing
STALL_STEPS = 200  # steps after the warm-up before the log says that nothing is being learnt


def evaluations(path: Path, step: int) -> tuple[Metric, ...]:
    """Return the numbers that `metrics.jsonl` holds for a step; a missing file holds none."""
    if not path.exists():
        return ()
    held = [json.loads(line) for line in _lines(path) if _step_of(line) == step]
    metrics = [metric for line in held for metric in line.get("metrics", ())]
    return tuple(
        Metric(
            metric["task"],
            metric["metric"],
            math.nan if metric["value"] is None else metric["value"],
            metric["ci95"] and tuple(metric["ci95"]),
            metric["n"],
        )
        for metric in metrics
    )


class MetricsLog:
    """Collects the figures of steps and writes them when they are due: every so many steps and at the last.

    `losses` are those of the finite steps since the last line.
    """

    def __init__(
        self, path: Path, progress: Progress, *, every: int, last_step: int, warmup_steps: int
    ) -> None:
        self.losses: list[float] = []
        self._path, self._progress = path, progress
        self._every, self._last_step, self._warmup_steps = every, last_step, warmup_steps
        self._warnings: set[str] = set()
        self._open_window()

    def begin(self, step: int) -> None:
        """Drop the lines of steps that come after `step`: a resumed run writes them again."""
        if self._path.exists():
            lines = _lines(self._path)
            lost = sum(math.isinf(_step_of(line)) for line in lines[:-1])  # a kill cuts the last one short
            if lost:
                self._progress.log(f"{lost} damaged lines of {self._path} are left out")
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self._path, "".join(f"{line}\n" for line in kept))
        self._open_window()

    def log_step(self, step: int, batch: Batch, result: StepResult, *, waited: float, skipped: int) -> None:
        """Add one step; `step` counts it, `waited` is the seconds its batch took to come."""
        pairs = len(batch.indices)
        self._pairs += pairs
        self._waited += waited
        if result.finite:
            self.losses.append(result.loss)
        else:
            norm = result.gradient_norm
            self._progress.log(f"step {step} skipped: loss {result.loss}, gradient norm {norm}")
        seconds = max(time.monotonic() - self._since, 1e-9)
        data_wait, cpu_wait = self._waited / seconds, self._cpu_wait(seconds)
        figures = {
            "loss": round(result.loss, 4),
            "ln N": round(math.log(pairs), 4),
            "scale": round(result.scale, 2),
            "data wait": f"{data_wait:.0%}",
        }
        if cpu_wait is not None and cpu_wait >= BUSY_FRACTION:
            figures["CPU wait"] = f"{cpu_wait:.0%}"
        self._progress.advance(pairs, **figures)
        if step % self._every and step != self._last_step:
            return
        line = {
            "step": step,
            "samples_seen": batch.samples_seen,
            "epoch": batch.epoch,
            "loss": math.fsum(self.losses) / len(self.losses) if self.losses else None,
            "ln_n": math.log(pairs),
            "scale": result.scale,
            "lr": result.rate,
            "grad_norm": result.gradient_norm if math.isfinite(result.gradient_norm) else None,
            "samples_per_second": round(self._pairs / seconds, 2),
            "data_wait_fraction": round(data_wait, 4),
            "cpu_wait_fraction": None if cpu_wait is None else round(cpu_wait, 4),
            "skipped": skipped,
        }
        self._write(line)
        self._warn(line)
        self.losses.clear()
        self._open_window()

    def write_evaluation(self, step: int, name: str, metrics: Sequence[Metric]) -> None:
        """Write one evaluator's numbers."""
        self._write({"step": step, "evaluation": name, "metrics": [metric.as_dict() for metric in metrics]})
        shown = "  ".join(f"{metric.metric} {metric.value:.4f}" for metric in metrics)
        self._progress.log(f"step {step}: {name}  {shown}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of the rates."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - begun

    def _cpu_wait(self, seconds: float) -> float | None:
        """Return the share of the time since the last line that went by waiting for a processor."""
        queued = seconds_waited()
        if queued is None or self._queued is None:
            return None
        return min(1.0, (queued - self._queued) / seconds)

    def _warn(self, line: dict[str, Any]) -> None:
        """Say once that the machine is busy, and once that nothing is learnt."""
        busy, loss, ln_n = line["cpu_wait_fraction"], line["loss"], line["ln_n"]
        warnings = {}
        if busy is not None and busy >= BUSY_FRACTION:
            warnings["busy"] = (
                f"the machine is busy: {busy:.0%} of the time the training waits for a processor "
                f"that other programs use"
            )
        late = line["step"] >= self._warmup_steps + STALL_STEPS
        if late and loss is not None and loss > STALL_FRACTION * ln_n:
            warnings["stall"] = (
                f"the loss is {loss:.3f} and ln N, what chance gives, {ln_n:.3f}: nothing is being learnt. "
                f"Is the learning rate too high (try a third)? Do the captions belong to their images?"
            )
        for kind, text in warnings.items():
            if kind not in self._warnings:
                self._progress.log(text)
        self._warnings |= warnings.keys()

    def _write(self, line: dict[str, Any]) -> None:
        append_line(self._path, json.dumps(line, allow_nan=False))

    def _open_window(self) -> None:
        self._since, self._queued = time.monotonic(), seconds_waited()
        self._pairs, self._waited = 0, 0.0


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", errors="replace").splitlines()


def _step_of(line: str) -> float:
    """Return a line's step; a line that a kill cut short belongs to no step that was saved."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
