"""Initialization as in the paper's code, one seed one model, and the forward pass's promises."""

import math

import pytest
import torch
from torch import Tensor

from diptych.models.towers.clip import build
from diptych.models.towers.config import (
    ClipConfig,
    ResNetConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    TextConfig,
    VitConfig,
)

TEXT = TextConfig(
    context_length=77, vocab_size=2000, width=256, layers=4, heads=4, start_id=1998, end_id=1999
)
VIT = ClipConfig(192, VitConfig((64, 64), 8, 256, 2, 4), TEXT)
RESNET = ClipConfig(192, ResNetConfig((64, 64), (2, 1, 1, 1), 16, 8), TEXT)
SIGLIP = ClipConfig(
    96, SiglipVisionConfig((32, 48), 16, 96, 3, 4), SiglipTextConfig(10, 2000, 80, 3, 4), "gelu_tanh", 1e-6
)
EVERY = pytest.mark.parametrize("config", [VIT, RESNET, SIGLIP])
UNIFORM = 3**-0.5  # standard deviation of U(-1, 1)


def expected_std() -> dict[str, float]:
    """Standard deviations by the table of OpenAI's initialize_parameters, for width 256 and 4 layers."""
    w, v, layers = 256, 256, 4
    text = {
        "text.token_embedding.weight": 0.02,
        "text.positional_embedding": 0.01,
        "text.text_projection": w**-0.5,
        "text.blocks.1.attn.q_proj.weight": w**-0.5,
        "text.blocks.1.attn.k_proj.weight": w**-0.5,
        "text.blocks.1.attn.v_proj.weight": w**-0.5,
        "text.blocks.1.attn.out_proj.weight": w**-0.5 * (2 * layers) ** -0.5,
        "text.blocks.1.mlp.c_proj.weight": w**-0.5 * (2 * layers) ** -0.5,
        "text.blocks.1.mlp.c_fc.weight": (2 * w) ** -0.5,
        "text.blocks.1.mlp.c_fc.bias": w**-0.5 * UNIFORM,
        "text.blocks.1.mlp.c_proj.bias": (4 * w) ** -0.5 * UNIFORM,
    }
    vision = {
        "vision.class_embedding": v**-0.5,
        "vision.positional_embedding": v**-0.5,
        "vision.proj": v**-0.5,
        "vision.conv1.weight": (3 * 8 * 8) ** -0.5 * UNIFORM,
        "vision.blocks.1.attn.q_proj.weight": math.sqrt(6 / (v + 3 * v)) * UNIFORM,
        "vision.blocks.1.attn.v_proj.weight": math.sqrt(6 / (v + 3 * v)) * UNIFORM,
        "vision.blocks.1.attn.out_proj.weight": v**-0.5 * UNIFORM,
        "vision.blocks.1.mlp.c_fc.weight": v**-0.5 * UNIFORM,
        "vision.blocks.1.mlp.c_proj.weight": (4 * v) ** -0.5 * UNIFORM,
        "vision.blocks.1.mlp.c_proj.bias": (4 * v) ** -0.5 * UNIFORM,
    }
    return text | vision


def test_every_tensor_starts_with_the_spread_of_the_papers_code() -> None:
    state = build(VIT, seed=0).state_dict()
    for name, std in expected_std().items():
        measured = state[name].std().item()
        # A sample's deviation of n normal values is off by about 1 / sqrt(2 n).
        allowed = 4 * (2 * state[name].numel()) ** -0.5
        assert abs(measured / std - 1) < allowed, f"{name}: {measured:.5f}, expected {std:.5f}"
    for name, tensor in state.items():
        if ".attn." in name and name.endswith("bias"):
            assert not tensor.any(), name
        if ".ln_" in name:
            assert (tensor == (1 if name.endswith("weight") else 0)).all(), name


def test_resnet_starts_with_silent_residual_branches_and_a_spread_pool() -> None:
    clip = build(RESNET, seed=0)
    state, width = clip.state_dict(), 16 * 32
    for part in ("q_proj", "k_proj", "v_proj", "c_proj"):
        assert state[f"vision.attnpool.{part}.weight"].std().item() == pytest.approx(width**-0.5, rel=0.02)
        bias = state[f"vision.attnpool.{part}.bias"]
        assert bias.std().item() == pytest.approx(width**-0.5 * UNIFORM, rel=0.2)
    assert state["vision.attnpool.positional_embedding"].std().item() == pytest.approx(width**-0.5, rel=0.1)
    assert state["vision.conv2.weight"].std().item() == pytest.approx((8 * 9) ** -0.5 * UNIFORM, rel=0.1)
    silent = [name for name, tensor in state.items() if name.endswith("bn3.weight") and not tensor.any()]
    blocks = ((1, 0), (1, 1), (2, 0), (3, 0), (4, 0))
    assert silent == [f"vision.layer{stage}.{index}.bn3.weight" for stage, index in blocks]
    assert (state["vision.bn3.weight"] == 1).all(), "the stem's third norm is no residual branch"
    assert (state["vision.layer1.0.bn1.running_var"] == 1).all()
    assert not state["vision.layer1.0.bn1.running_mean"].any()
    assert state["vision.layer1.0.bn1.num_batches_tracked"] == 0


@EVERY
def test_same_seed_gives_the_same_model_and_leaves_the_global_state_alone(config: ClipConfig) -> None:
    before = torch.get_rng_state()
    one, same, other = (build(config, seed=seed).state_dict() for seed in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(tensor.isfinite().all() for tensor in one.values())
    assert not torch.equal(one["vision.conv1.weight"], other["vision.conv1.weight"])


def batch(config: ClipConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, *config.vision.image_size, generator=generator)
    tokens = torch.tensor([[1998, 5, 1999, 0], [1998, 6, 7, 1999], [1998, 8, 1999, 0]])
    return pixels, tokens


@EVERY
def test_forward_gives_unit_vectors_and_the_papers_first_scale(config: ClipConfig) -> None:
    image_embeds, text_embeds, scale = build(config, seed=0)(*batch(config))
    assert image_embeds.shape == text_embeds.shape == (3, config.embed_dim)
    for embeds in (image_embeds, text_embeds):
        assert torch.allclose(embeds.norm(dim=-1), torch.ones(3), atol=1e-6)
    assert scale.shape == ()
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-6)


def test_the_scale_is_the_exponential_of_what_is_stored_and_only_training_bounds_it() -> None:
    clip = build(VIT, seed=0)
    torch.nn.init.constant_(clip.logit_scale, 5.0)
    assert clip(*batch(VIT))[2].item() == pytest.approx(math.exp(5.0), rel=1e-6)


@EVERY
def test_every_parameter_receives_a_gradient(config: ClipConfig) -> None:
    clip = build(config, seed=0)
    images, texts, scale = clip(*batch(config))
    (scale * (images * texts).sum()).backward()
    assert [name for name, parameter in clip.named_parameters() if parameter.grad is None] == []


@EVERY
def test_bfloat16_autocast_stays_near_float32(config: ClipConfig) -> None:
    clip = build(config, seed=0).eval()
    with torch.no_grad():
        exact = clip(*batch(config))[:2]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = clip(*batch(config))[:2]
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32
        assert (one * other).sum(-1).min() > 0.999
