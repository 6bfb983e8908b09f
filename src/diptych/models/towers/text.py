"""The causal text Transformer, and the layout of its batches without padding.

A text is read at its first end token. Attention is causal, so tokens after it cannot change the result: they
are never computed. Texts of one batch are sorted by length and run as rows without gaps (`blocks`); the
result comes back in the caller's order and equals that of padding every text to the full context.

Source: Radford et al. 2021 (CLIP), section 2.4. We differ from OpenAI's ``clip/model.py`` in finding the end
token by its id: the largest id of a row is the end token only while nobody adds tokens to the vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.inputs import require_context, text_lengths
from diptych.models.towers.blocks import LayerNorm, Transformer
from diptych.models.towers.config import Activation, TextConfig


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Where every needed token of a batch goes."""

    ids: Tensor  # (T,) int64, sorted by length of text
    positions: Tensor  # (T,) int64 position of each token in its text
    groups: tuple[tuple[int, int], ...]  # runs (n, L) of texts that share a length
    eot_positions: Tensor  # (B,) int64 row of each text's end token
    visible: tuple[Tensor | None, ...]  # per group None, or (n, L) bool where texts were padded to its length
    ranks: Tensor  # (B,) int64 position of each of the caller's texts in the sorted order

    def to(self, device: torch.device, *, non_blocking: bool = True) -> "PackedBatch":
        """Return it on a device; from pinned memory nothing waits for the copies."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PackedBatch":
        """Return it in memory that a GPU reads while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PackedBatch":
        names = ("ids", "positions", "eot_positions", "ranks")
        tensors: Any = {name: change(getattr(self, name)) for name in names}
        visible = tuple(None if mask is None else change(mask) for mask in self.visible)
        return replace(self, visible=visible, **tensors)


def pack_sequences(tokens: Tensor, end_id: int, *, one_group: bool = False) -> PackedBatch:
    """Lay out texts (B, L) int64, B > 0, without the tokens behind their end.

    The lengths are found once, on the host: on an accelerator this is the tower's only synchronization.
    ``one_group`` pads all texts to the longest of the batch; one wide launch suits accelerators better.
    """
    host = tokens.cpu().numpy()
    lengths = text_lengths(host, end_id)
    order = np.argsort(lengths, kind="stable")
    lengths = lengths[order]
    if one_group:
        runs, counts = lengths[-1:], np.array([len(lengths)])
    else:
        runs, counts = np.unique(lengths, return_counts=True)
    groups = tuple((int(count), int(length)) for count, length in zip(counts, runs, strict=True))
    padded = np.repeat(runs, counts)
    starts = np.cumsum(padded) - padded
    positions = np.arange(int(padded.sum())) - np.repeat(starts, padded)
    ids = host[np.repeat(order, padded), positions]
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    visible: tuple[Tensor | None, ...] = (None,) * len(groups)
    if one_group and lengths[0] < runs[0]:
        visible = (torch.from_numpy(np.arange(runs[0]) < lengths[:, None]).to(tokens.device),)

    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64, copy=False)).to(tokens.device, non_blocking=True)

    eot_positions = on_device(starts + lengths - 1)
    return PackedBatch(on_device(ids), on_device(positions), groups, eot_positions, visible, on_device(ranks))


class TextTransformer(nn.Module):
    """Maps token ids (B, L) to features (B, E)."""

    def __init__(self, config: TextConfig, *, embed_dim: int, activation: Activation, eps: float) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = Transformer(config, activation=activation, eps=eps, causal=True)
        self.ln_final = LayerNorm(config.width, eps=eps)
        self.text_projection = nn.Parameter(torch.empty(config.width, embed_dim))

    def forward(self, tokens: Tensor | PackedBatch) -> Tensor:
        """Return (B, E) features of texts (B, L) int64 with an end token in every row, or of their batch."""
        if isinstance(tokens, PackedBatch):
            batch = tokens
        elif tokens.shape[0] == 0:
            return self.text_projection.new_zeros((0, self.text_projection.shape[1]))
        else:
            batch = pack_sequences(tokens, self.config.end_id, one_group=tokens.device.type != "cpu")
        require_context(max(length for _, length in batch.groups), self.config.context_length)
        positions = F.embedding(batch.positions, self.positional_embedding)
        rows = self.token_embedding(batch.ids) + positions
        read = self.ln_final(self.blocks.pooled(rows, batch.groups, batch.eot_positions, batch.visible))
        return cast(Tensor, read @ self.text_projection).index_select(0, batch.ranks)
