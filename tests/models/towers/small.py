"""Towers whose every number matters, and their blocks copied into transformers' towers."""

from typing import Any

import torch
from torch import nn


def lively(tower: nn.Module, *, spread: float = 0.1, seed: int = 0) -> nn.Module:
    """Add noise to every parameter, biases and gains too, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return tower


def copy_blocks(blocks: Any, layers: Any) -> None:
    """Copy the weights of our blocks into transformers' encoder layers."""
    for ours, theirs in zip(blocks, layers, strict=True):
        pairs = [(getattr(theirs.self_attn, part), getattr(ours.attn, part)) for part in PROJECTIONS]
        pairs += [(theirs.layer_norm1, ours.ln_1), (theirs.layer_norm2, ours.ln_2)]
        for layer, source in (*pairs, (theirs.mlp.fc1, ours.mlp.c_fc), (theirs.mlp.fc2, ours.mlp.c_proj)):
            layer.load_state_dict(source.state_dict())


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
