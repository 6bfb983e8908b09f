"""The pieces that both Transformer towers are made of.

A tower holds its tokens as rows (T, D): the tokens of all sequences behind one another, sequences of equal
length side by side. ``groups`` names those runs: ``((n, L), ...)`` is n sequences of L tokens each. Attention
alone looks at the groups, so sequences of different lengths share one pass and no padding is computed.

Source: Radford et al. 2021 (CLIP), section 2.4; Vaswani et al. 2017; QuickGELU: OpenAI's ``clip/model.py``.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.towers.config import Activation
from diptych.models.towers.numerics import linear

Groups = Sequence[tuple[int, int]]
Visible = Sequence[Tensor | None]

QUICK_GELU_SLOPE = 1.702
SHORT_SEQUENCE = 32  # up to this, float32 attention beats plain half-precision products

GELU_APPROXIMATION = {"gelu": "none", "gelu_tanh": "tanh"}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def quick_gelu(x: Tensor) -> Tensor:
    """Return ``x * sigmoid(1.702 x)``, written as a scaled SiLU: torch has that as one fused kernel."""
    return F.silu(x * QUICK_GELU_SLOPE) * (1 / QUICK_GELU_SLOPE)


class Linear(nn.Linear):
    """A linear layer whose float32 product goes through `diptych.models.towers.numerics.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D_out)."""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """LayerNorm with float32 statistics, gain and bias, also for half-precision rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalized over its last axis, in x's dtype."""
        if x.dtype == self.weight.dtype or x.device.type == "cpu":
            # The CPU kernel takes half-precision rows beside a float32 gain and keeps float32 in between.
            return super().forward(x)
        return super().forward(x.float()).to(x.dtype)


class Patches(nn.Conv2d):
    """The convolution whose windows lie side by side: it cuts an image into patches and projects each."""

    def __init__(self, width: int, size: int, *, bias: bool) -> None:
        super().__init__(3, width, size, stride=size, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, P, D), row by row, for images (B, 3, H, W).

        GPUs do it as one matrix product: cuDNN's convolution took 15 times as long, forward and backward
        (ViT-B/32, 1,024 images, H200: 15 of 130 ms a step).
        """
        if pixels.device.type == "cpu":
            return super().forward(pixels).flatten(2).transpose(1, 2)
        return self.product(pixels)

    def product(self, pixels: Tensor) -> Tensor:
        """Do `forward` as a matrix product."""
        size = self.kernel_size[0]
        rows, columns = (side // size for side in pixels.shape[2:])
        # (B, 3, rows, columns, size, size): views, whatever the memory's order; unfold leaves a rest out
        windows = pixels.unfold(2, size, size).unfold(3, size, size)
        cut = windows.permute(0, 2, 3, 4, 5, 1).reshape(len(pixels), rows * columns, 3 * size * size)
        weight = self.weight.permute(0, 2, 3, 1).reshape(len(self.weight), -1)
        return F.linear(cut, weight, self.bias)


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
        """Return (T, D) for (T, D): every token looks at its own sequence."""
        q, k, v = self.q_proj(rows), self.k_proj(rows), self.v_proj(rows)
        if not _is_half_training_on_cpu(q):
            mixed = attend(q, k, v, groups, heads=self.heads, causal=self.causal)
        elif max(length for _, length in groups) > SHORT_SEQUENCE:
            mixed = attend(q, k, v, groups, heads=self.heads, causal=self.causal, fused=False)
        else:
            with torch.autocast("cpu", enabled=False):
                floats = q.float(), k.float(), v.float()
                mixed = attend(*floats, groups, heads=self.heads, causal=self.causal).to(q.dtype)
        return cast(Tensor, self.out_proj(mixed))

    def pooled(self, rows: Tensor, groups: Groups, pool_rows: Tensor, visible: Visible) -> Tensor:
        """Return (N, D), equal to `forward` in the N rows ``pool_rows``, one of each sequence in order.

        ``visible`` is per group None, or (n, L) bool: the keys that a sequence's pooling token may see.
        """
        mixed = one_query_attention(self, rows.index_select(0, pool_rows), rows, groups, visible)
        return cast(Tensor, self.out_proj(mixed))


def _is_half_training_on_cpu(q: Tensor) -> bool:
    """Tell when torch's fused attention is slow: its half-precision backward on the CPU.

    Measured with torch 2.13, forward + backward in bfloat16, 64 wide heads: 33 ms fused, 5.3 ms as plain
    products (48 x 3 heads x 65 tokens); 7.8 ms fused, 0.9 ms fused in float32 (32 x 3 heads x 12 tokens).
    """
    return q.requires_grad and q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)


def attend(
    q: Tensor, k: Tensor, v: Tensor, groups: Groups, *, heads: int, causal: bool, fused: bool = True
) -> Tensor:
    """Mix the values (T, D) of each sequence by the softmax of query times key.

    ``causal``: a token sees itself and those before it. Not ``fused``: plain matrix products.
    """
    kernel = F.scaled_dot_product_attention if fused else _plain_attention
    sizes = [count * length for count, length in groups]
    mixed = []
    runs = zip(*(torch.split(rows, sizes) for rows in (q, k, v)), strict=True)
    for parts, (count, length) in zip(runs, groups, strict=True):
        queries, keys, values = (part.view(count, length, heads, -1).transpose(1, 2) for part in parts)
        out = kernel(queries, keys, values, is_causal=causal)
        mixed.append(out.transpose(1, 2).reshape(count * length, -1))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool) -> Tensor:
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if is_causal:
        length = scores.shape[-1]
        later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return torch.matmul(scores.softmax(-1), v)


def one_query_attention(
    layers: nn.Module, queries: Tensor, rows: Tensor, groups: Groups, visible: Visible
) -> Tensor:
    """Attend from one query per sequence without projecting every token to keys and values.

    With one query, ``q . (K x_i) = (K^T q) . x_i`` and ``sum_i a_i V x_i = V (sum_i a_i x_i)``: two products
    with the tokens per head replace two (D, D) products per token. The result is the same up to rounding.

    ``layers`` holds ``q_proj``, ``k_proj``, ``v_proj`` and ``heads``. Returns (N, D), heads side by side, for
    queries (N, D) and all tokens, the rows (T, D), before the output projection; see `Attention.pooled`.
    """
    heads = cast(int, layers.heads)
    q_proj, k_proj, v_proj = (cast(nn.Linear, layers.get_submodule(name)) for name in _PROJECTIONS)
    number, width = queries.shape
    size = width // heads
    q = q_proj(queries).view(number, heads, size).transpose(0, 1) * size**-0.5
    key_weight = k_proj.weight.view(heads, size, width)
    looks = torch.bmm(q, key_weight.to(q.dtype)).transpose(0, 1)
    # A key's bias adds one constant to all scores of a query: softmax cancels it; it stays for the gradient.
    offsets = torch.bmm(q, k_proj.bias.view(heads, size, 1).to(q.dtype)).transpose(0, 1)
    counts = [count for count, _ in groups]
    sizes = [count * length for count, length in groups]
    split = torch.split(looks, counts), torch.split(offsets, counts), torch.split(rows, sizes)
    sums = []
    for look, offset, part, (count, length), seen in zip(*split, groups, visible, strict=True):
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
        self.activation = activation

    def forward(self, rows: Tensor) -> Tensor:
        """Return (T, D) for (T, D)."""
        if self.activation != "quick_gelu":
            hidden = F.gelu(self.c_fc(rows), approximate=GELU_APPROXIMATION[self.activation])
            return cast(Tensor, self.c_proj(hidden))
        if torch.is_grad_enabled() and len(rows) > rows.shape[1]:
            return self._folded(rows)
        return cast(Tensor, self.c_proj(quick_gelu(self.c_fc(rows))))

    def _folded(self, rows: Tensor) -> Tensor:
        """Move QuickGELU's two scalings from (T, 4 D) activations to (4 D, D) weights: equal up to rounding.

        It pays where there are more rows than columns, which is training (measured: 8 % of a tower's step).
        """
        slope, inner, outer = QUICK_GELU_SLOPE, self.c_fc, self.c_proj
        hidden = F.silu(linear(rows, inner.weight * slope, inner.bias * slope))
        return linear(hidden, outer.weight * (1 / slope), outer.bias)


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

    def pooled(self, rows: Tensor, groups: Groups, pool_rows: Tensor, visible: Visible) -> Tensor:
        """Return (N, D), equal to `forward` in the rows ``pool_rows``."""
        mixed = self.attn.pooled(self.ln_1(rows), groups, pool_rows, visible)
        read = rows.index_select(0, pool_rows) + mixed
        return cast(Tensor, read + self.mlp(self.ln_2(read)))


class Transformer(nn.ModuleList):
    """The blocks of a tower, by its configuration."""

    def __init__(self, config: Any, *, activation: Activation, eps: float, causal: bool) -> None:
        options: Any = {"mlp_ratio": config.mlp_ratio, "activation": activation, "eps": eps, "causal": causal}
        super().__init__(Block(config.width, config.heads, **options) for _ in range(config.layers))

    def forward(self, rows: Tensor, groups: Groups) -> Tensor:
        """Return (T, D): every token after all blocks."""
        for block in self:
            rows = block(rows, groups)
        return rows

    def pooled(
        self, rows: Tensor, groups: Groups, pool_rows: Tensor, visible: Visible | None = None
    ) -> Tensor:
        """Return (N, D): one token per sequence after all blocks; the last block computes no others."""
        for block in list(self)[:-1]:
            rows = block(rows, groups)
        seen = [None] * len(groups) if visible is None else visible
        return cast(Block, self[-1]).pooled(rows, groups, pool_rows, seen)
