"""One step of training: forward, loss, backward, clip, check, update, clamp.

Writes: `bad_batch.json` in the run folder when a run stops over numbers that are not finite.
Source: Radford et al. 2021, sections 2.3 to 2.5 and table 18.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diptych.core.errors import NonFiniteError
from diptych.core.files.durable import write_json
from diptych.core.seeds import derive
from diptych.data.loader import Batch, Loader
from diptych.models.model import Model
from diptych.models.towers.blocks import Block
from diptych.train.optimizer import adamw, clip_gradients
from diptych.train.schedule import learning_rate
from diptych.train.settings import TrainSettings

BAD_STEPS_IN_ROW = 3  # one bad batch happens; three in a row mean that the run has broken

# (image_embeds (N, E), text_embeds (N, E), scale 0-D) to a 0-D loss
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of one step; nothing was updated where it is not `finite`."""

    loss: float
    scale: float  # after the update
    rate: float  # learning rate used
    gradient_norm: float  # over all parameters, before clipping
    finite: bool


class TrainStep:
    """Model and optimizer, and how a batch changes them."""

    def __init__(self, model: Model, settings: TrainSettings, loss: Loss, *, total_steps: int) -> None:
        self.model, self.settings, self.loss, self.total_steps = model, settings, loss, total_steps
        self.precision = settings.resolved_precision(model.device)
        self.skipped_steps = self.skipped_in_row = 0
        if settings.channels_last:
            # torch's own annotation has no overload for memory_format on nn.Module
            model.clip.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.compile:
            for block in filter(lambda part: isinstance(part, Block), model.clip.modules()):
                block.compile()  # in place: names in checkpoints stay
        model.clip.train()
        self.optimizer = adamw(model.clip, **settings.adamw(model.config.vision.kind))
        self._parameters = [p for p in model.clip.parameters() if p.requires_grad]
        self._buffers = list(model.clip.buffers())
        self._buffers_before = [torch.empty_like(buffer) for buffer in self._buffers]
        self._largest = largest_logit_scale(model.config.logit_scale_max)
        self._bound_scale()  # a loaded model may come with a larger one

    def step(self, batch: Batch, number: int) -> StepResult:
        """Take step `number` (from 0) with a batch."""
        settings = self.settings
        rate = learning_rate(
            number,
            peak=settings.learning_rate,
            warmup_steps=settings.warmup(self.total_steps),
            total_steps=self.total_steps,
            min_lr_ratio=settings.min_lr_ratio,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Randomness inside a model is a function of the step: resuming needs no generator's state.
        torch.manual_seed(derive(settings.seed, "step", number))
        self._save_buffers()
        loss = self._forward(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self._parameters, settings.max_grad_norm)
        # The device itself leaves out an update that is not finite: the fused kernel obeys `found_inf`.
        bad = ~(loss.detach().isfinite() & norm.isfinite())
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self._bound_scale()
        self._restore_buffers(bad)
        self.optimizer.zero_grad(set_to_none=True)
        # The one time that the host waits for the device in a step.
        measured = torch.stack([loss.detach(), norm, self.model.clip.logit_scale.detach()])
        loss_value, norm_value, log_scale = measured.tolist()
        finite = math.isfinite(loss_value) and math.isfinite(norm_value)
        self.skipped_steps += not finite
        self.skipped_in_row = 0 if finite else self.skipped_in_row + 1
        return StepResult(loss_value, math.exp(log_scale), rate, norm_value, finite)

    def require_progress(self, step: int, batch: Batch, loader: Loader, folder: Path) -> None:
        """Stop a run whose steps keep failing, and leave the last batch's sample keys behind."""
        if self.skipped_in_row < BAD_STEPS_IN_ROW:
            return
        path = folder / "bad_batch.json"
        write_json(path, {"step": step, "epoch": batch.epoch, "keys": loader.keys(batch.indices)})
        raise NonFiniteError(
            f"loss or gradients were not finite {BAD_STEPS_IN_ROW} steps in a row",
            where=f"step {step}; the batch's samples are in {path}",
            fix="resume from the last state with a lower learning rate in a new run, "
            "a max_grad_norm of 1, or precision float32; look at the samples",
        )

    def _forward(self, batch: Batch) -> Tensor:
        model = self.model
        pixels = model.normalize_pixels(batch.pixels)
        texts = batch.tokens if batch.packed is None else batch.packed
        texts = texts.to(model.device, non_blocking=True)
        lower = self.precision == "bfloat16"
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=lower):
            image_embeds, text_embeds, scale = model.clip(pixels, texts)
        return self.loss(image_embeds, text_embeds, scale)

    @torch.no_grad()
    def _bound_scale(self) -> None:
        self.model.clip.logit_scale.clamp_(0.0, self._largest)

    def _save_buffers(self) -> None:
        """Copy BatchNorm's running statistics: a forward pass over a bad batch spoils them for ever."""
        for before, buffer in zip(self._buffers_before, self._buffers, strict=True):
            before.copy_(buffer)

    def _restore_buffers(self, bad: Tensor) -> None:
        for before, buffer in zip(self._buffers_before, self._buffers, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))


def largest_logit_scale(largest_scale: float) -> float:
    """Return the largest float32 whose float32 exponential does not exceed `largest_scale`.

    ln(100) rounded to float32 has the exponential 100.00001: past the paper's bound.

    >>> float(torch.tensor(largest_logit_scale(100.0)).exp()) <= 100.0
    True
    """
    value = torch.tensor(math.log(largest_scale), dtype=torch.float32)
    while value.exp() > largest_scale:
        value = torch.nextafter(value, torch.tensor(-math.inf))
    return value.item()
