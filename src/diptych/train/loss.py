"""The symmetric contrastive loss, tile by tile, so that its memory is O(N) and not O(N²).

One tile of logits lives at a time. The forward pass keeps only the log-sum-exp of every row and column; the
backward pass computes the tiles again. That is four matrix products of 2·N²·D operations where a loss that
computes both directions' logits and lets autograd keep them needs six, and no (N, N) matrix is ever stored.

One exponential serves rows and columns: logits are bounded by scale·max‖image‖·max‖text‖ (Cauchy-Schwarz), so
one constant shift keeps all of exp(logit - shift) inside float32's range. Where it would not (all logits of a
row far below the bound), the sums reveal it and the exact path with a maximum per tile takes over.
Accelerators always take the exact path: the host reads nothing of it, so a training step does not wait there.

Source: Radford et al. 2021, section 2.3 and figure 3. Not in the paper: the tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.core.errors import ArrayError
from diptych.models.towers.numerics import current_engine, linear

# Up to this many pairs the one matrix of exponentials (16 MiB at most) is kept instead of computed again
DIRECT_SIZE = 2048
# Side of a tile of logits, 16 MiB of float32. From 512 to 2048 the time is the same, nearly all of it in the
# matrix products; larger tiles wait less for threads on a busy machine.
TILE = 2048
# exp(70)·N stays below float32's largest number for N up to 10⁸, exp(-70) above its smallest normal one
EXPONENT_ROOM = 70.0
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
# What underflow may take from a sum before the exact path is used: well below float32's own rounding
LOST_FRACTION = 1e-8


@dataclass(frozen=True, slots=True)
class _Statistics:
    """What the forward pass leaves for the backward pass: all of it O(N)."""

    row_lse: Tensor
    column_lse: Tensor
    shift: float
    shared: bool  # whether one exponential with the constant shift serves rows and columns
    exponentials: Tensor | None  # exp(logits - shift), (N, N), kept only for small N


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    """Return the mean of the two cross-entropies that pick each image's text and each text's image.

    Args:
        image_embeds: (N, E) float, usually unit length; row i belongs with text i. Computed in float32.
        text_embeds: (N, E) float.
        scale: 0-D float ≥ 0, the factor on the similarities (exp of the logit scale).

    Returns:
        0-D float32; ln N when nothing is known. Differentiable once in all three arguments.

    Raises:
        ArrayError: The shapes do not belong together, or there are no pairs.

    >>> same = torch.ones(4, 2)
    >>> round(contrastive_loss(same, same, torch.tensor(5.0)).item(), 4), round(math.log(4), 4)
    (1.3863, 1.3863)
    """
    if image_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape or not len(image_embeds):
        found = f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}"
        expected = "two (N, E) tensors of one shape with N ≥ 1"
        raise ArrayError("contrastive_loss cannot pair these", found=found, expected=expected)
    with torch.autocast(image_embeds.device.type, enabled=False):
        loss: Tensor = _ContrastiveLoss.apply(  # type: ignore[no-untyped-call]
            image_embeds.float(), text_embeds.float(), scale.float()
        )
        return loss


class _ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        scaled = image * scale
        statistics = _statistics(scaled, text)
        ctx.save_for_backward(image, text, scale)
        ctx.statistics = statistics
        matched = (scaled * text).sum(dim=1)
        return ((statistics.row_lse + statistics.column_lse) * 0.5 - matched).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, text, scale = ctx.saved_tensors
        with torch.autocast(image.device.type, enabled=False):
            image_sum, text_sum = _gradient_sums(image * scale, image, text, ctx.statistics)
        weight = grad_loss * (0.5 / len(image))
        grad_scale = (image_sum * image).sum() * weight
        return image_sum.mul_(weight * scale), text_sum.mul_(weight * scale), grad_scale


def _tiles(count: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, count, TILE):
        for column in range(0, count, TILE):
            yield slice(row, min(row + TILE, count)), slice(column, min(column + TILE, count))


def _statistics(scaled: Tensor, text: Tensor) -> _Statistics:
    if not _decides_on_host(scaled.device):
        return _exact_statistics(scaled, text)
    count = len(scaled)
    bound = float(torch.linalg.vector_norm(scaled, dim=1).max() * torch.linalg.vector_norm(text, dim=1).max())
    shift = max(0.0, bound - EXPONENT_ROOM) if math.isfinite(bound) else 0.0
    rows, columns = scaled.new_zeros(count), scaled.new_zeros(count)
    memory = scaled.new_empty(min(count, TILE) ** 2)
    for at_rows, at_columns in _tiles(count):
        tile = _exponentials(scaled[at_rows], text[at_columns], shift, memory)
        rows[at_rows] += tile.sum(dim=1)
        columns[at_columns] += tile.sum(dim=0)
    kept = tile if count <= DIRECT_SIZE else None
    least = count * SMALLEST_NORMAL / LOST_FRACTION
    if bool(torch.minimum(rows, columns).min() >= least):
        return _Statistics(rows.log_().add_(shift), columns.log_().add_(shift), shift, True, kept)
    return _exact_statistics(scaled, text)


def _decides_on_host(device: torch.device) -> bool:
    """Return whether a shift and its check may be read: an accelerator would have to be waited for."""
    return device.type == "cpu"


def _exact_statistics(scaled: Tensor, text: Tensor) -> _Statistics:
    """Compute the same with a maximum per tile: two exponentials per logit, right for every finite input."""
    count = len(scaled)
    rows = scaled.new_full((count,), -math.inf)
    columns = scaled.new_full((count,), -math.inf)
    for at_rows, at_columns in _tiles(count):
        logits = _product(scaled[at_rows], text[at_columns])
        rows[at_rows] = torch.logaddexp(rows[at_rows], logits.logsumexp(dim=1))
        columns[at_columns] = torch.logaddexp(columns[at_columns], logits.logsumexp(dim=0))
    return _Statistics(rows, columns, 0.0, False, None)


def _gradient_sums(
    scaled: Tensor, image: Tensor, text: Tensor, statistics: _Statistics
) -> tuple[Tensor, Tensor]:
    """Return P @ text and P.T @ image, P = row softmax + column softmax - 2·identity, tile by tile."""
    count = len(image)
    if statistics.exponentials is not None:
        whole, memory = slice(0, count), image.new_empty(count * count)
        weights = _weights(statistics.exponentials, whole, whole, statistics, memory)
        return _product(weights, text.T), _product(weights.T, image.T)
    image_sum, text_sum = torch.zeros_like(image), torch.zeros_like(text)
    memory = image.new_empty(2, TILE * TILE)
    for at_rows, at_columns in _tiles(count):
        if statistics.shared:
            tile = _exponentials(scaled[at_rows], text[at_columns], statistics.shift, memory[0])
        else:
            tile = _product(scaled[at_rows], text[at_columns])
        weights = _weights(tile, at_rows, at_columns, statistics, memory[1])
        _add_product(image_sum[at_rows], weights, text[at_columns])
        _add_product(text_sum[at_columns], weights.T, image[at_rows])
    return image_sum, text_sum


def _exponentials(scaled: Tensor, text: Tensor, shift: float, memory: Tensor) -> Tensor:
    """Return exp(scaled @ text.T - shift), in `memory` where the processor's engine can write there."""
    shape = len(scaled), len(text)
    out = _product(scaled, text, memory[: shape[0] * shape[1]].view(shape))
    if shift:
        out.sub_(shift)
    return out.exp_()


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    if current_engine() == "onednn":
        return linear(left.contiguous(), right.contiguous(), None)
    return torch.mm(left, right.T, out=out)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if current_engine() == "onednn":
        total.add_(linear(left.contiguous(), right.T.contiguous(), None))
    else:
        total.addmm_(left, right)


def _weights(tile: Tensor, rows: slice, columns: slice, statistics: _Statistics, memory: Tensor) -> Tensor:
    """Turn a tile of exponentials (on the exact path: of logits) into row + column softmax - 2·identity."""
    row_lse, column_lse = statistics.row_lse[rows, None], statistics.column_lse[None, columns]
    if statistics.shared:
        # exp(logit - lse) = exp(logit - shift) · exp(shift - lse): one exponential per row and per column
        factors = (statistics.shift - row_lse).exp_(), (statistics.shift - column_lse).exp_()
        weights = torch.add(*factors, out=memory[: tile.numel()].view(tile.shape)).mul_(tile)
    else:
        weights = (tile - row_lse).exp_().add_((tile - column_lse).exp_())
    if rows == columns:
        weights.diagonal().sub_(2.0)
    return weights
