"""The vision Transformer: patches and a class token, a LayerNorm before and after the blocks, a projection.

Source: Dosovitskiy et al. 2021; Radford et al. 2021 (CLIP), section 2.4 (LayerNorm before the Transformer).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.towers.blocks import LayerNorm, Patches, Transformer
from diptych.models.towers.config import Activation, VitConfig


class VisionTransformer(nn.Module):
    """Maps images (B, 3, H, W) to features (B, E)."""

    def __init__(self, config: VitConfig, *, embed_dim: int, activation: Activation, eps: float) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, config.grid[0] * config.grid[1] + 1
        self.conv1 = Patches(width, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.ln_pre = LayerNorm(width, eps=eps)
        self.blocks = Transformer(config, activation=activation, eps=eps, causal=False)
        self.ln_post = LayerNorm(width, eps=eps)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, E) features of normalized images (B, 3, H, W)."""
        return self.pooled(pixels) @ self.proj

    def pooled(self, pixels: Tensor) -> Tensor:
        """Return (B, D), the class token before the projection: what linear probes read."""
        patches = self.conv1(pixels)
        batch, _, width = patches.shape
        first = self.class_embedding.to(patches.dtype).expand(batch, 1, width)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding.to(patches.dtype)
        length = x.shape[1]
        rows = self.ln_pre(x).view(batch * length, width)
        pool_rows = torch.arange(batch, device=rows.device) * length
        return cast(Tensor, self.ln_post(self.blocks.pooled(rows, [(batch, length)], pool_rows)))


def interpolate_positions(
    positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], *, extra: int = 1
) -> Tensor:
    """Stretch learned positions to another grid of (rows, columns): bicubic with antialiasing.

    The first ``extra`` positions (class token, mean token of a ResNet's attention pool; SigLIP has none) are
    no places in the image and are kept.

    >>> interpolate_positions(torch.zeros(5, 8), (2, 2), (4, 6)).shape
    torch.Size([25, 8])
    """
    if positions.shape[0] != old_grid[0] * old_grid[1] + extra:
        raise ValueError(
            f"{positions.shape[0]} positions do not fit a grid of {old_grid} and {extra} extra tokens"
        )
    if old_grid == new_grid:
        return positions
    first, grid = positions[:extra], positions[extra:]
    image = grid.float().t().reshape(1, -1, *old_grid)
    image = F.interpolate(image, size=new_grid, mode="bicubic", antialias=True, align_corners=False)
    stretched = image.reshape(grid.shape[1], -1).t().to(positions.dtype)
    return torch.cat([first, stretched]).contiguous()
