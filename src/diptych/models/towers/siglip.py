"""SigLIP's two towers.

The image tower has no class token and no projection: a learned query (the probe) attends to all patches of
the last layer. The text tower sees in both directions and is read at the last position of a context of fixed
length, so its padding takes part in the result and is computed; only the last block spares it.

Source: Zhai et al. 2023 (SigLIP), section 3; Tschannen et al. 2025 (SigLIP 2); google-research/big_vision
``models/vit.py``, ``models/proj/image_text/text_transformer.py`` (architecture and initialization).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.inputs import require_context
from diptych.models.towers.blocks import (
    Attention,
    LayerNorm,
    Linear,
    Mlp,
    Patches,
    Transformer,
    one_query_attention,
)
from diptych.models.towers.config import Activation, SiglipTextConfig, SiglipVisionConfig
from diptych.models.towers.init import Initializer

MLP_BIAS_STD = 1e-6


class AttentionHead(nn.Module):
    """Pools the tokens of an image: one learned query attends to them, then a residual MLP ("MAP")."""

    def __init__(self, config: SiglipVisionConfig, *, activation: Activation, eps: float) -> None:
        super().__init__()
        width = config.width
        self.probe = nn.Parameter(torch.empty(width))
        self.attn = Attention(width, config.heads, causal=False)
        self.ln = LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), activation)

    def forward(self, rows: Tensor, batch: int) -> Tensor:
        """Return (B, D) for the (B * P, D) tokens of ``batch`` images."""
        probes = self.probe.to(rows.dtype).expand(batch, -1)
        mixed = one_query_attention(self.attn, probes, rows, [(batch, len(rows) // batch)], [None])
        pooled = self.attn.out_proj(mixed)
        return cast(Tensor, pooled + self.mlp(self.ln(pooled)))


class SiglipVision(nn.Module):
    """Maps images (B, 3, H, W) to features (B, E); E is the tower's width."""

    def __init__(self, config: SiglipVisionConfig, *, activation: Activation, eps: float) -> None:
        super().__init__()
        self.config = config
        width, size = config.width, config.patch_size
        self.conv1 = Patches(width, size, bias=True)
        self.positional_embedding = nn.Parameter(torch.empty(config.grid[0] * config.grid[1], width))
        self.blocks = Transformer(config, activation=activation, eps=eps, causal=False)
        self.ln_post = LayerNorm(width, eps=eps)
        self.head = AttentionHead(config, activation=activation, eps=eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, E) features of normalized images (B, 3, H, W)."""
        patches = self.conv1(pixels)
        batch, length, width = patches.shape
        if batch == 0:
            return cast(Tensor, patches.new_zeros((0, width)))
        x = patches + self.positional_embedding.to(patches.dtype)
        rows = self.blocks(x.reshape(batch * length, width), [(batch, length)])
        return cast(Tensor, self.head(self.ln_post(rows), batch))

    def pooled(self, pixels: Tensor) -> Tensor:
        """Return what `forward` returns: there is no projection behind the pooled tokens."""
        return cast(Tensor, self(pixels))


class SiglipText(nn.Module):
    """Maps token ids (B, L) to features (B, E)."""

    def __init__(
        self, config: SiglipTextConfig, *, embed_dim: int, activation: Activation, eps: float
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.blocks = Transformer(config, activation=activation, eps=eps, causal=False)
        self.ln_final = LayerNorm(width, eps=eps)
        self.head: nn.Module = Linear(width, embed_dim) if config.head else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, E) features of texts (B, L) int64, filled up with the pad token to the whole context."""
        context, width = self.config.context_length, self.config.width
        require_context(tokens.shape[1], context)
        batch = len(tokens)
        if batch == 0:
            return cast(Tensor, self.head(self.ln_final(self.positional_embedding.new_zeros((0, width)))))
        full = F.pad(tokens, (0, context - tokens.shape[1]), value=self.config.pad_id)
        rows = (self.token_embedding(full) + self.positional_embedding).view(batch * context, width)
        pool_rows = torch.arange(1, batch + 1, device=rows.device) * context - 1
        read = self.blocks.pooled(rows, [(batch, context)], pool_rows)
        return cast(Tensor, self.head(self.ln_final(read)))


def initialize_vision(vision: SiglipVision, init: Initializer) -> None:
    """Fill a new image tower: LeCun-normal patches, Xavier-uniform blocks and probe, as in big_vision."""
    width = vision.config.width
    init.lecun(vision.conv1)
    init.normal(vision.positional_embedding, width**-0.5)
    for block in vision.blocks:
        _initialize_block(block, init)
    init.xavier(vision.head.probe[None])  # Flax counts the one query as the fan in
    _initialize_block(vision.head, init)


def initialize_text(text: SiglipText, init: Initializer) -> None:
    """Fill a new text tower: tokens and positions of deviation D^-0.5, the rest as in the image tower."""
    width = text.config.width
    init.normal(text.token_embedding.weight, width**-0.5)
    init.normal(text.positional_embedding, width**-0.5)
    for block in text.blocks:
        _initialize_block(block, init)
    if isinstance(text.head, nn.Linear):
        init.lecun(text.head)


def _initialize_block(block: nn.Module, init: Initializer) -> None:
    attention, mlp = cast(Attention, block.attn), cast(Mlp, block.mlp)
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        init.xavier(layer.weight)
        layer.bias.zero_()
    for layer in (mlp.c_fc, mlp.c_proj):
        init.xavier(layer.weight)
        init.normal(layer.bias, MLP_BIAS_STD)
