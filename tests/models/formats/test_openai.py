"""The OpenAI key layout: names by hand from openai/CLIP, and there and back without loss."""

import pytest
import torch

from diptych.models.formats.layouts import openai_rows, read_rows, weights_only
from diptych.models.formats.openai import infer_openai, to_openai_state
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
    ours = build(config, seed=0).state_dict()
    theirs = to_openai_state(ours)
    assert infer_openai(theirs, activation="quick_gelu", head_width=64) == config
    state = read_rows(openai_rows(ours), theirs)
    assert state.keys() == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(state[name], tensor), name


def test_names_shapes_and_the_order_of_query_key_and_value_are_openais() -> None:
    ours = build(VIT, seed=0).state_dict()
    theirs = to_openai_state(ours)
    assert theirs["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (192, 64)
    assert theirs["transformer.resblocks.1.attn.in_proj_bias"].shape == (384,)
    assert theirs["visual.proj"].shape == (64, 24)
    assert theirs["text_projection"].shape == (128, 24)
    assert theirs["positional_embedding"].shape == (9, 128)
    assert theirs["visual.class_embedding"].shape == (64,)
    assert theirs["logit_scale"].shape == ()
    assert len(theirs) == TEXT_NAMES + VIT_NAMES + 1
    resnet = to_openai_state(build(RESNET, seed=0).state_dict())
    assert {"visual.layer2.1.bn3.running_var", "visual.layer1.0.downsample.0.weight"} <= resnet.keys()
    packed = theirs["transformer.resblocks.0.attn.in_proj_weight"]
    for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
        weight = ours[f"text.blocks.0.attn.{part}.weight"]
        assert torch.equal(packed[128 * index : 128 * (index + 1)], weight)


def test_half_precision_files_one_dimensional_scales_and_old_extras_are_read() -> None:
    ours = build(VIT, seed=0).state_dict()
    theirs = {name: tensor.half() for name, tensor in to_openai_state(ours).items()}
    theirs["logit_scale"] = theirs["logit_scale"].reshape(1)
    theirs["input_resolution"] = torch.tensor(32)
    assert infer_openai(theirs, activation="quick_gelu", head_width=64) == VIT
    assert "input_resolution" not in weights_only(theirs)
    state = read_rows(openai_rows(ours), theirs)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert state["logit_scale"].shape == ()
