"""The ModifiedResNet against the reference spelled with nn.functional."""

import pytest
import torch
from tests.models.towers.small import lively
from torch import Tensor
from torch.nn import functional as F

from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig
from diptych.models.towers.resnet import ModifiedResNet

TEXT = TextConfig(context_length=8, vocab_size=50, width=32, layers=1, heads=2, start_id=48, end_id=49)


def tower(config: ResNetConfig, seed: int = 0) -> ModifiedResNet:
    clip = build(ClipConfig(24, config, TEXT), seed=seed)
    lively(clip.vision)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in clip.vision.named_buffers():
        if "running" in name:
            buffer.add_(torch.randn(buffer.shape, generator=generator).abs() * 0.1)
    assert isinstance(clip.vision, ModifiedResNet)
    return clip.vision


def reference(state: dict[str, Tensor], pixels: Tensor, config: ResNetConfig, *, train: bool) -> Tensor:
    """OpenAI's ModifiedResNet.forward, step by step, attention by torch's own multi-head attention."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"].clone(), state[f"{name}.running_var"].clone()
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], train)

    x = F.relu(norm(F.conv2d(pixels, state["conv1.weight"], stride=2, padding=1), "bn1"))
    x = F.relu(norm(F.conv2d(x, state["conv2.weight"], padding=1), "bn2"))
    x = F.relu(norm(F.conv2d(x, state["conv3.weight"], padding=1), "bn3"))
    x = F.avg_pool2d(x, 2) if config.stem_pool else x
    for stage, count in enumerate(config.layers, start=1):
        for index in range(count):
            name, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            y = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
            y = F.relu(norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2"))
            y = norm(F.conv2d(F.avg_pool2d(y, stride), state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if index == 0:
                x = F.conv2d(F.avg_pool2d(x, stride), state[f"{name}.downsample.0.weight"])
                x = norm(x, f"{name}.downsample.1")
            x = F.relu(y + x)
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(0, keepdim=True), x]) + state["attnpool.positional_embedding"][:, None]
    weights = {part: state[f"attnpool.{part}_proj.weight"] for part in "qkvc"}
    biases = torch.cat([state[f"attnpool.{part}_proj.bias"] for part in "qkv"])
    pooled, _ = F.multi_head_attention_forward(
        x[:1], x, x, x.shape[-1], config.heads, None, biases, None, None, False, 0.0,
        weights["c"], state["attnpool.c_proj.bias"], need_weights=False, use_separate_proj_weight=True,
        q_proj_weight=weights["q"], k_proj_weight=weights["k"], v_proj_weight=weights["v"],
    )  # fmt: skip
    return pooled[0]


CONFIGS = [
    ResNetConfig((64, 64), (1, 2, 1, 1), 8, 4),
    ResNetConfig((64, 96), (1, 1, 1, 1), 8, 4),
    ResNetConfig((32, 64), (2, 1, 1, 1), 8, 4, stem_pool=False),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("train", [False, True])
def test_tower_equals_the_plain_reference(config: ResNetConfig, train: bool) -> None:
    ours = tower(config).train(train).double()
    pixels = torch.randn(4, 3, *config.image_size, generator=torch.Generator().manual_seed(1)).double()
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = reference(dict(ours.state_dict()), pixels, config, train=train)
        assert torch.allclose(ours(pixels), expected, rtol=1e-9, atol=1e-9)


def test_gradients_equal_the_plain_reference() -> None:
    config = CONFIGS[2]
    ours = tower(config).train().double()
    pixels = torch.randn(3, 3, 32, 64, generator=torch.Generator().manual_seed(1)).double()
    names, parameters = zip(*ours.named_parameters(), strict=True)
    state = {**dict(ours.named_buffers()), **dict(ours.named_parameters())}
    weights = torch.randn(3, 24, generator=torch.Generator().manual_seed(2)).double()
    expected = torch.autograd.grad((reference(state, pixels, config, train=True) * weights).sum(), parameters)
    found = torch.autograd.grad((ours(pixels) * weights).sum(), parameters)
    for name, one, other in zip(names, found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9), name


def test_total_stride_is_32_with_and_16_without_the_stem_pool() -> None:
    assert (ResNetConfig((64, 64)).grid, ResNetConfig((64, 64), stem_pool=False).grid) == ((2, 2), (4, 4))
