"""The OpenAI key layout: names by hand from openai/CLIP, and there and back without loss."""

import pytest
import torch

from diptych.core.errors import DataError
from diptych.models.formats.openai import from_openai_state, to_openai_state
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig

TEXT = TextConfig(context_length=9, vocab_size=50, width=128, layers=2, heads=2, start_id=-1, end_id=-1)
VIT = ClipConfig(24, VitConfig((32, 32), 8, 64, 2, 1), TEXT)
RESNET = ClipConfig(24, ResNetConfig((64, 64), (1, 2, 1, 1), 8, 4), TEXT)

# Per block 12, text 4 + 2 of ln_final... counted in openai/CLIP for two blocks each, plus logit_scale.
TEXT_NAMES = 2 * 12 + 5
VIT_NAMES = 2 * 12 + 3 + 4 + 1


@pytest.mark.parametrize("config", [VIT, RESNET])
def test_there_and_back_is_lossless_and_infers_the_architecture(config: ClipConfig) -> None:
    clip = build(config, seed=0)
    actual, state = from_openai_state(
        to_openai_state(clip.state_dict()), activation="quick_gelu", head_width=64
    )
    assert actual == config
    assert state.keys() == clip.state_dict().keys()
    for name, tensor in clip.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_names_and_shapes_are_openais() -> None:
    theirs = to_openai_state(build(VIT, seed=0).state_dict())
    assert theirs["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (192, 64)
    assert theirs["transformer.resblocks.1.attn.in_proj_bias"].shape == (384,)
    assert theirs["visual.proj"].shape == (64, 24)
    assert theirs["text_projection"].shape == (128, 24)
    assert theirs["positional_embedding"].shape == (9, 128)
    assert theirs["visual.class_embedding"].shape == (64,)
    assert theirs["logit_scale"].shape == ()
    assert len(theirs) == TEXT_NAMES + VIT_NAMES + 1
    assert "visual.layer2.1.bn3.running_var" in to_openai_state(build(RESNET, seed=0).state_dict())
    assert "visual.layer1.0.downsample.0.weight" in to_openai_state(build(RESNET, seed=0).state_dict())


def test_query_key_and_value_are_packed_in_that_order() -> None:
    clip = build(VIT, seed=0)
    packed = to_openai_state(clip.state_dict())["transformer.resblocks.0.attn.in_proj_weight"]
    attention = clip.text.get_submodule("blocks.0.attn")
    for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
        weight = attention.get_submodule(part).weight
        assert torch.equal(packed[128 * index : 128 * (index + 1)], weight)  # type: ignore[arg-type]


def test_half_precision_files_one_dimensional_scales_and_old_extras_are_read() -> None:
    theirs = {
        name: tensor.half() for name, tensor in to_openai_state(build(VIT, seed=0).state_dict()).items()
    }
    theirs["logit_scale"] = theirs["logit_scale"].reshape(1)
    theirs["input_resolution"] = torch.tensor(32)
    _, state = from_openai_state(theirs, activation="gelu", head_width=64)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert state["logit_scale"].shape == ()
    assert len(state) == len(build(VIT, seed=0).state_dict())


def test_other_weights_are_refused_by_the_missing_name() -> None:
    with pytest.raises(DataError, match=r"token_embedding\.weight"):
        from_openai_state({"head.weight": torch.zeros(1)}, activation="gelu")
