"""SigLIP's towers: how they start, what they refuse, and that padding takes part in the result."""

import math
from dataclasses import replace

import pytest
import torch

from diptych.core.errors import DataError
from diptych.models.towers.clip import Clip, build
from diptych.models.towers.config import ClipConfig, SiglipTextConfig, SiglipVisionConfig, mlp_ratio
from diptych.models.towers.siglip import SiglipText, SiglipVision
from diptych.models.towers.vit import interpolate_positions

CONFIG = ClipConfig(
    96,
    SiglipVisionConfig((32, 48), 16, 96, 3, 4),
    SiglipTextConfig(10, 400, 80, 3, 4),
    "gelu_tanh",
    1e-6,
    logit_scale_init=math.log(10),
    logit_bias_init=-10.0,
)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return build(CONFIG, seed=0).eval()


def test_features_have_the_shape_of_the_space(clip: Clip) -> None:
    pixels, tokens = torch.randn(3, 3, 32, 48), torch.randint(2, 400, (5, 10))
    images, texts, scale = clip(pixels, tokens)
    assert images.shape == (3, 96) and texts.shape == (5, 96)
    assert scale.item() == pytest.approx(10)
    assert clip.encode_image(pixels[:0]).shape == clip.encode_text(tokens[:0]).shape == (0, 96)
    with pytest.raises(DataError, match="at most 10"):
        clip.encode_text(torch.ones(1, 11, dtype=torch.int64))


def test_initial_values_have_the_deviations_of_big_vision(clip: Clip) -> None:
    """By hand: LeCun and embeddings fan_in^-0.5, Xavier (2 / (fan_in + fan_out))^0.5."""
    vision, text = clip.vision, clip.text
    assert isinstance(vision, SiglipVision) and isinstance(text, SiglipText)
    expected = {
        vision.conv1.weight: (3 * 16 * 16) ** -0.5,
        vision.positional_embedding: 96**-0.5,
        vision.get_parameter("blocks.1.attn.q_proj.weight"): (2 / 192) ** 0.5,
        vision.get_parameter("blocks.1.mlp.c_fc.weight"): (2 / (96 + 384)) ** 0.5,
        vision.get_parameter("blocks.1.mlp.c_fc.bias"): 1e-6,
        vision.get_parameter("head.attn.v_proj.weight"): (2 / 192) ** 0.5,
        vision.head.probe: (2 / 97) ** 0.5,
        text.token_embedding.weight: 80**-0.5,
        text.positional_embedding: 80**-0.5,
        text.get_parameter("head.weight"): 80**-0.5,
    }
    for parameter, deviation in expected.items():
        # Two standard errors of a deviation are 2 / sqrt(2 n); six leave room for heavy tails.
        error = 6 * (2 * parameter.numel()) ** -0.5
        assert parameter.std(correction=0).item() == pytest.approx(deviation, rel=error)
    for name in ("vision.conv1.bias", "vision.blocks.0.attn.q_proj.bias", "text.head.bias"):
        assert not clip.get_parameter(name).any()
    assert vision.conv1.weight.abs().max() < 2.3 * 768**-0.5  # cut off at two deviations before rescaling
    assert (clip.logit_scale.item(), clip.logit_bias.item()) == (pytest.approx(math.log(10)), -10)  # type: ignore[union-attr]


def test_padding_takes_part_and_is_filled_in(clip: Clip) -> None:
    tokens = torch.tensor([[5, 6, 7, 1, 1, 1, 1, 1, 1, 1]])
    full = clip.encode_text(tokens)
    assert torch.equal(clip.encode_text(tokens[:, :4]), full)
    other = tokens.where(torch.arange(10) < 4, 0)
    assert (clip.encode_text(other) - full).abs().max() > 1e-2
    zeros = replace(CONFIG, text=replace(CONFIG.text, pad_id=0))  # type: ignore[arg-type]
    padded = build(zeros, seed=0).eval()
    padded.load_state_dict(clip.state_dict())
    assert torch.equal(padded.encode_text(tokens[:, :4]), clip.encode_text(other))


def test_positions_without_an_extra_token_are_stretched_whole() -> None:
    positions = torch.randn(12, 5)
    wide = interpolate_positions(positions, (3, 4), (6, 8), extra=0)
    with_token = interpolate_positions(torch.cat([positions[:1], positions]), (3, 4), (6, 8))
    assert torch.equal(wide, with_token[1:])
    with pytest.raises(ValueError, match="0 extra"):
        interpolate_positions(torch.randn(13, 5), (3, 4), (6, 8), extra=0)


def test_a_ratio_gives_back_the_width_it_was_made_from() -> None:
    for width in (64, 1152, 1408, 1664):
        assert all(int(width * mlp_ratio(width, hidden)) == hidden for hidden in range(width, 6 * width, 7))
