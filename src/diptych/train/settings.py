"""Settings of a training run, and what follows from them before the first step."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from diptych.core.errors import SettingsError
from diptych.core.machine import multiplies_bfloat16
from diptych.models.towers.numerics import device_of
from diptych.train.optimizer import paper_constants

Precision = Literal["float32", "bfloat16"]

# Settings that may change when a run is resumed: they do not change what is computed
RESUME_IGNORED_FIELDS = ("device", "log_every", "save_every_steps", "evaluate_every_steps", "keep")

POSITIVE = (
    *("steps", "epochs", "samples", "stop_after_samples", "batch_size", "learning_rate", "max_grad_norm"),
    *("log_every", "save_every_steps", "evaluate_every_steps", "keep"),
)


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """One training run. Exactly one of `steps`, `epochs` and `samples` says how long it is.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the data; may be a fraction.
        samples: pairs seen.
        stop_after_samples: end once this many pairs were seen, in the middle of the schedule: a run to hold
            against another one at equal samples. None goes to the end.
        batch_size: pairs per step; the loader's must be the same.
        learning_rate: peak of the schedule.
        warmup_steps: linear rise to the peak; None takes a twentieth of the run, at most the paper's 2,000.
        min_lr_ratio: where the cosine ends, as a fraction of the peak.
        beta2: of Adam, like `epsilon`; None takes the paper's for the kind of image tower.
        max_grad_norm: largest norm of all gradients together; None for no limit, as in the paper.
        device: as torch names it; "auto" is the GPU where CUDA finds one, else the processor.
        compile: let torch.compile fuse the blocks of Transformers: the same numbers up to rounding, after
            half a minute of compiling; it pays on GPUs.
        precision: of the towers; the loss is always float32. "auto" is bfloat16 where the processor or the
            GPU multiplies it faster than float32.
        channels_last: keep images and convolutions channels-last in memory: the same numbers, faster.
        log_every: steps between two lines of metrics.jsonl; None takes a twentieth of the run, at most 10.
        evaluate_every_steps: steps between two evaluations; None evaluates at the end only.
        keep: how many states, one every `save_every_steps`, stay on the disk to resume from.
        seed: of the loader and of the model's randomness.
    """

    steps: int | None = None
    epochs: float | None = None
    samples: int | None = None
    stop_after_samples: int | None = None
    batch_size: int = 256
    learning_rate: float = 5e-4
    warmup_steps: int | None = None
    min_lr_ratio: float = 0.0
    weight_decay: float = 0.2
    beta1: float = 0.9
    beta2: float | None = None
    epsilon: float | None = None
    max_grad_norm: float | None = None
    device: str = "auto"
    compile: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    log_every: int | None = None
    save_every_steps: int = 500
    evaluate_every_steps: int | None = None
    keep: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        lengths = {"steps": self.steps, "epochs": self.epochs, "samples": self.samples}
        given = {name: value for name, value in lengths.items() if value is not None}
        if len(given) != 1:
            found = ", ".join(f"{name} = {value}" for name, value in given.items()) or "none"
            what, expected = "the length of a run is given once", "exactly one of steps, epochs, samples"
            raise SettingsError(what, where="train", found=found, expected=expected)
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                what, where = "a setting of the run is too small", f"train.{name}"
                raise SettingsError(what, where=where, found=value, expected="more than 0")

    def total_steps(self, count: int) -> int:
        """Return the length of the run in steps over a data set of `count` pairs; its warm-up has to end.

        >>> TrainSettings(epochs=1.5, batch_size=100, warmup_steps=2).total_steps(1000)
        15
        """
        samples = self.samples if self.samples is not None else math.ceil((self.epochs or 0.0) * count)
        steps = self.steps if self.steps is not None else math.ceil(samples / self.batch_size)
        if self.warmup(steps) >= steps:
            found = f"{self.warmup_steps} steps of warm-up in a run of {steps}"
            what, where = "the run ends before its warm-up", "train.warmup_steps"
            fix = "leave warmup_steps out (a twentieth of the run), shorten it, or lengthen the run"
            raise SettingsError(what, where=where, found=found, expected=f"fewer than {steps}", fix=fix)
        return steps

    def warmup(self, total_steps: int) -> int:
        """Return the steps of warm-up of a run of so many steps.

        >>> [TrainSettings(epochs=1).warmup(steps) for steps in (11, 100, 100_000)]
        [0, 5, 2000]
        """
        return min(2000, total_steps // 20) if self.warmup_steps is None else self.warmup_steps

    def logged_every(self, total_steps: int) -> int:
        """Return the steps between two lines of the metrics log of a run of so many steps.

        >>> [TrainSettings(epochs=1).logged_every(steps) for steps in (11, 100, 100_000)]
        [1, 5, 10]
        """
        return max(1, min(10, total_steps // 20)) if self.log_every is None else self.log_every

    def last_step(self, count: int) -> int:
        """Return the step after which the run ends: that of its schedule, unless it stops before.

        >>> TrainSettings(steps=100, batch_size=10, warmup_steps=2, stop_after_samples=205).last_step(1000)
        21
        """
        end = self.total_steps(count)
        if self.stop_after_samples is None:
            return end
        return min(end, math.ceil(self.stop_after_samples / self.batch_size))

    def adamw(self, vision: Literal["vit", "resnet", "siglip"]) -> dict[str, float]:
        """Return the optimizer's constants, those left open filled in for the kind of image tower."""
        beta2, epsilon = paper_constants(vision)
        return {
            "weight_decay": self.weight_decay,
            "beta1": self.beta1,
            "beta2": beta2 if self.beta2 is None else self.beta2,
            "epsilon": epsilon if self.epsilon is None else self.epsilon,
        }

    def resolved_device(self) -> torch.device:
        """Return the device."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        fix = 'device = "auto" takes a GPU where there is one'
        return device_of(self.device, where="train.device", fix=fix)

    def resolved_precision(self, device: torch.device) -> Precision:
        """Return the precision of the towers; "auto": bfloat16 where the device does not emulate it."""
        if self.precision != "auto":
            return self.precision
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = device.type == "cpu" and multiplies_bfloat16()
        return "bfloat16" if native else "float32"
