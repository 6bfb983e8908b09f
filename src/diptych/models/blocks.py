"""The pieces that both Transformer towers are made of.

A tower holds its tokens as *rows* (T, D): the tokens of every sequence behind one another, sequences of equal
length side by side. ``groups`` names those runs: ``((n, L), ...)`` means n sequences of L tokens each. Linear
layers, LayerNorm and the MLP see only rows; attention alone looks at the groups. So sequences of different
lengths share one pass and no padding is computed.

Source: Radford et al. 2021 (CLIP), section 2.4; Vaswani et al. 2017; QuickGELU as in OpenAI's
``clip/model.py``.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.config import Activation
from diptych.models.numerics import linear

Groups = Sequence[tuple[int, int]]
Visible = Sequence[Tensor | None]

QUICK_GELU_SLOPE = 1.702

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def quick_gelu(x: Tensor) -> Tensor:
    """Return ``x * sigmoid(1.702 x)``, written as a scaled SiLU: torch has that as one fused kernel."""
    return F.silu(x * QUICK_GELU_SLOPE) * (1 / QUICK_GELU_SLOPE)


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Linear(nn.Linear):
    """A linear layer whose float32 product goes through `diptych.models.numerics.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D_out) for (..., D_in)."""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """LayerNorm with float32 statistics, gain and bias, also for half-precision rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised over its last axis, in x's dtype."""
        if x.dtype in (torch.float32, torch.float64):
            return super().forward(x)
        return super().forward(x.float()).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with explicit query, key and value layers."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, rows: Tensor, groups: Groups) -> Tensor:
        """Let every token look at its own sequence.

        Args:
            rows: (T, D).
            groups: runs of equally long sequences; the sum of n * L is T.

        Returns:
            (T, D).
        """
        q, k, v = self.q_proj(rows), self.k_proj(rows), self.v_proj(rows)
        sizes = [count * length for count, length in groups]
        parts = zip(*(torch.split(part, sizes) for part in (q, k, v)), groups, strict=True)
        mixed = [self._attend(*part) for part in parts]
        return cast(Tensor, self.out_proj(mixed[0] if len(mixed) == 1 else torch.cat(mixed)))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: tuple[int, int]) -> Tensor:
        shape = (*group, self.heads, -1)
        q, k, v = (part.view(shape).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return mixed.transpose(1, 2).reshape(group[0] * group[1], -1)

    def pooled(self, rows: Tensor, groups: Groups, readers: Tensor, visible: Visible) -> Tensor:
        """Attend from one token of each sequence only; the same numbers as `forward` has in those rows.

        Args:
            rows: (T, D).
            groups: as in `forward`.
            readers: (N,) index of the reading row of each sequence, in order.
            visible: per group None, or (n, L) bool: the keys that a sequence's reader may see.

        Returns:
            (N, D).
        """
        mixed = one_query_attention(self, rows.index_select(0, readers), rows, groups, visible)
        return cast(Tensor, self.out_proj(mixed))


def one_query_attention(
    layers: nn.Module,
    queries: Tensor,
    rows: Tensor,
    groups: Groups,
    visible: Visible,
) -> Tensor:
    """Attend from one query per sequence without projecting every token to keys and values.

    With one query, ``q . (K x_i) = (K^T q) . x_i`` and ``sum_i a_i V x_i = V (sum_i a_i x_i)``: two products
    with the tokens per head replace two (D, D) products per token. The result is the same up to rounding.

    Args:
        layers: holds ``q_proj``, ``k_proj``, ``v_proj`` and ``heads``.
        queries: (N, D) input rows of the reading tokens.
        rows: (T, D) all tokens; groups: their runs; visible: per group None or (n, L) bool of allowed keys.

    Returns:
        (N, D) heads side by side, before the output projection.
    """
    heads = cast(int, layers.heads)
    q_proj, k_proj, v_proj = (cast(nn.Linear, layers.get_submodule(name)) for name in _PROJECTIONS)
    number, width = queries.shape
    size = width // heads
    q = q_proj(queries).view(number, heads, size).transpose(0, 1) * size**-0.5
    key_weight = k_proj.weight.view(heads, size, width)
    looks = torch.bmm(q, key_weight.to(q.dtype)).transpose(0, 1)
    # A key's bias adds one constant to all of a query's scores. Softmax cancels it; it stays for the
    # gradient's sake.
    offsets = torch.bmm(q, k_proj.bias.view(heads, size, 1).to(q.dtype)).transpose(0, 1)
    counts = [count for count, _ in groups]
    sizes = [count * length for count, length in groups]
    parts = zip(
        torch.split(looks, counts),
        torch.split(offsets, counts),
        torch.split(rows, sizes),
        groups,
        visible,
        strict=True,
    )
    sums = []
    for look, offset, part, (count, length), seen in parts:
        tokens = part.view(count, length, width).to(look.dtype)
        scores = torch.baddbmm(offset, look, tokens.transpose(1, 2))
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None], float("-inf"))
        sums.append(torch.bmm(scores.softmax(-1).to(tokens.dtype), tokens))
    mixed = (sums[0] if len(sums) == 1 else torch.cat(sums)).transpose(0, 1)
    value_weight = v_proj.weight.view(heads, size, width)
    values = torch.bmm(mixed, value_weight.transpose(1, 2).to(mixed.dtype))
    return values.transpose(0, 1).reshape(number, width) + v_proj.bias.to(values.dtype)


class Mlp(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = Linear(width, hidden)
        self.c_proj = Linear(hidden, width)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, rows: Tensor) -> Tensor:
        """Return (T, D) for (T, D)."""
        return cast(Tensor, self.c_proj(self.activation(self.c_fc(rows))))


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP."""

    def __init__(
        self, width: int, heads: int, *, mlp_ratio: float, activation: Activation, eps: float, causal: bool
    ) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, causal=causal)
        self.ln_2 = LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), activation)

    def forward(self, rows: Tensor, groups: Groups) -> Tensor:
        """Return (T, D) for (T, D)."""
        rows = rows + self.attn(self.ln_1(rows), groups)
        return cast(Tensor, rows + self.mlp(self.ln_2(rows)))

    def pooled(self, rows: Tensor, groups: Groups, readers: Tensor, visible: Visible) -> Tensor:
        """Run the block for one token per sequence: (N, D), equal to `forward` in the rows ``readers``."""
        mixed = self.attn.pooled(self.ln_1(rows), groups, readers, visible)
        read = rows.index_select(0, readers) + mixed
        return cast(Tensor, read + self.mlp(self.ln_2(read)))


class Transformer(nn.ModuleList):
    """A stack of blocks of which only one token per sequence is read at the end.

    The last block therefore computes queries, output and MLP for those tokens alone.
    """

    def read(self, rows: Tensor, groups: Groups, readers: Tensor, visible: Visible | None = None) -> Tensor:
        """Return (N, D): the reading tokens after all blocks. Arguments as in `Attention.pooled`."""
        for block in list(self)[:-1]:
            rows = block(rows, groups)
        seen = [None] * len(groups) if visible is None else visible
        return cast(Block, self[-1]).pooled(rows, groups, readers, seen)
