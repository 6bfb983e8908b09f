"""The ModifiedResNet: a stem of three convolutions, average pools before strides, an attention pool on top.

The pools take the place of strided convolutions (anti-aliasing); the attention's one query is the mean of the
last feature map.

Source: Radford et al. 2021 (CLIP), section 2.4; OpenAI's ``clip/model.py``. We differ in ``stem_pool``.
"""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.towers.blocks import Linear, one_query_attention
from diptych.models.towers.config import RESNET_EXPANSION, ResNetConfig


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; stride lives in average pools."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        out = planes * RESNET_EXPANSION
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.stride = stride
        self.downsample: nn.Sequential | None = None
        if stride > 1 or channels != out:
            layers = [("0", nn.Conv2d(channels, out, 1, bias=False)), ("1", nn.BatchNorm2d(out))]
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 * planes, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(_pool(out, self.stride)))
        shortcut = x if self.downsample is None else self.downsample(_pool(x, self.stride))
        return F.relu(out + shortcut, inplace=True)


def _pool(x: Tensor, stride: int) -> Tensor:
    return x if stride == 1 else F.avg_pool2d(x, stride)


class AttentionPool(nn.Module):
    """One multi-head attention over the feature map; the query is its mean token."""

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.output_width
        self.heads = config.heads
        self.positional_embedding = nn.Parameter(torch.empty(config.grid[0] * config.grid[1] + 1, width))
        self.k_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.c_proj = Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, E) for a feature map (B, C, rows, columns)."""
        return cast(Tensor, self.c_proj(self.pooled(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """Return (B, C), what the attention gathered, before the projection."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.to(tokens.dtype)
        batch, length, width = tokens.shape
        rows = tokens.reshape(batch * length, width)
        return one_query_attention(self, tokens[:, 0], rows, [(batch, length)], [None])


class ModifiedResNet(nn.Module):
    """Maps images (B, 3, H, W) to features (B, E)."""

    def __init__(self, config: ResNetConfig, *, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(config.layers):
            planes = width * 2**stage
            blocks = []
            for index in range(count):
                blocks.append(Bottleneck(channels, planes, 2 if stage > 0 and index == 0 else 1))
                channels = planes * RESNET_EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = AttentionPool(config, embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, E) features of normalized images (B, 3, H, W)."""
        return cast(Tensor, self.attnpool(self._map(pixels)))

    def pooled(self, pixels: Tensor) -> Tensor:
        """Return (B, C), the attention pool before its projection: what linear probes read."""
        return self.attnpool.pooled(self._map(pixels))

    def _map(self, x: Tensor) -> Tensor:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)), inplace=True)
        x = _pool(x, 2 if self.config.stem_pool else 1)
        for stage in range(len(self.config.layers)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x
