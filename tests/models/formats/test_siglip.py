"""SigLIP from transformers and back: embeddings beside transformers' own, exact tensors, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.peers import transformers

from diptych.core.errors import SettingsError, UnknownNameError
from diptych.models.formats.layouts import LAYOUTS, State, read_rows, write_rows
from diptych.models.formats.open_clip import from_open_clip, to_open_clip
from diptych.models.formats.transformers import from_transformers, to_transformers, with_head_and_bias
from diptych.models.towers.clip import Clip, build, meta_init
from diptych.models.towers.config import (
    NO_CEILING,
    ClipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    VitConfig,
)
from diptych.models.towers.presets import TRUNKS, Trunk

CONTEXT, VOCABULARY = 12, 90
# SO400M's traps: an image size that is no multiple of the patch, an MLP width that is none of the tower's.
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 115, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": CONTEXT, "projection_size": 64,
}  # fmt: skip
VISION = {
    "hidden_size": 64, "intermediate_size": 151, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 52, "patch_size": 16,
}  # fmt: skip
OURS = ClipConfig(
    64,
    SiglipVisionConfig((32, 32), 16, 64, 2, 4),
    SiglipTextConfig(CONTEXT, VOCABULARY, 48, 2, 3),
    "gelu",
    1e-6,
    logit_scale_max=NO_CEILING,
    text_activation="gelu_tanh",
    logit_bias_init=-10.0,
)
OF_52_PIXELS = replace(OURS, vision=replace(OURS.vision, image_size=(52, 52)))


@pytest.fixture(autouse=True)
def _timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRUNKS, "vit_micro_siglip", Trunk(32, 16, 64, 2, 4, "gelu"))


def lively(model: torch.nn.Module) -> None:
    """Give every parameter values that matter, gains and biases too, and the towers strong activations."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.ndim < 2 else 0.15))


def theirs(**changes: Any) -> torch.nn.Module:
    text = TEXT | {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers().SiglipConfig(
        text_config=text | {"hidden_act": changes.get("text_act", "gelu_pytorch_tanh")},
        vision_config=VISION | {"hidden_act": changes.get("vision_act", "gelu_pytorch_tanh")},
    )
    torch.manual_seed(0)
    model = transformers().SiglipModel(config).eval()
    lively(model)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 4 images and 8 texts: one empty, one that fills the context, the others padded with 1."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 52, 52, generator=generator)
    tokens = torch.randint(2, VOCABULARY, (8, CONTEXT), generator=generator)
    for row, length in enumerate((0, CONTEXT, 1, 3, 5, 7, 9, 10)):
        tokens[row, length:] = 1
    return pixels, tokens


def in_layout(library: str, config: ClipConfig, state: State) -> dict[str, torch.Tensor]:
    return write_rows(LAYOUTS[library](config, state), state)


def loaded(library: str, config: ClipConfig, state: State) -> Clip:
    clip = meta_init(config).eval()
    rows = LAYOUTS[library](config, clip.state_dict())
    clip.load_state_dict(read_rows(rows, state), strict=True, assign=True)
    return clip


def worst(clip: Clip, model: torch.nn.Module) -> float:
    pixels, tokens = batch()
    with torch.no_grad():
        images, texts, _ = clip(pixels, tokens)
        expected = model(pixel_values=pixels, input_ids=tokens)
    pairs = ((images, expected.image_embeds), (texts, expected.text_embeds))
    return max((ours - other).abs().max().item() for ours, other in pairs)


@pytest.mark.parametrize("vision_act", ["gelu_pytorch_tanh", "gelu"])
@pytest.mark.parametrize("text_act", ["gelu_pytorch_tanh", "gelu", "quick_gelu"])
def test_what_transformers_saves_embeds_as_in_transformers(
    vision_act: str, text_act: str, tmp_path: Path
) -> None:
    model = theirs(vision_act=vision_act, text_act=text_act)
    model.save_pretrained(tmp_path)
    config = from_transformers(json.loads((tmp_path / "config.json").read_text()))
    state = load_file(tmp_path / "model.safetensors")
    assert worst(loaded("transformers", config, state), model) < 1e-5
    mistaken = replace(config, activation="quick_gelu", text_activation="gelu")
    assert worst(loaded("transformers", mistaken, state), model) > 1e-4


def test_scale_and_bias_give_the_logits_of_transformers() -> None:
    """A scale above 100, as published SigLIPs have it, is not cut down to CLIP's ceiling."""
    model = theirs()
    with torch.no_grad():
        model.logit_scale.fill_(4.77)
    clip = loaded("transformers", from_transformers(model.config.to_dict()), model.state_dict())
    pixels, tokens = batch()
    with torch.no_grad():
        images, texts, scale = clip(pixels, tokens)
        expected = model(pixel_values=pixels, input_ids=tokens).logits_per_image
    assert scale.item() > 117 and clip.logit_bias is not None
    assert torch.allclose(scale * images @ texts.T + clip.logit_bias, expected, atol=1e-3)


def test_there_and_back_changes_no_bit() -> None:
    model = theirs()
    config = from_transformers(model.config.to_dict())
    back = in_layout("transformers", config, loaded("transformers", config, model.state_dict()).state_dict())
    assert back.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back[name]), name
    mapping = to_transformers(config)
    assert from_transformers(mapping) == config
    for key, value in model.config.vision_config.to_dict().items():
        assert mapping["vision_config"].get(key, value) == value, key


def test_a_config_that_leaves_out_defaults_means_transformers_defaults() -> None:
    config = from_transformers({"model_type": "siglip", "text_config": {}, "vision_config": {}})
    assert config.vision == SiglipVisionConfig() and config.text == SiglipTextConfig()
    ours = to_transformers(config)
    for part in ("text_config", "vision_config"):
        full = getattr(transformers().SiglipConfig(), part).to_dict()
        ids = {"pad_token_id", "bos_token_id", "eos_token_id"}
        assert {key: full[key] for key in ours[part].keys() - ids} == {
            key: ours[part][key] for key in ours[part].keys() - ids
        }


def test_a_text_tower_without_a_head_leaves_with_an_identity() -> None:
    text = SiglipTextConfig(CONTEXT, VOCABULARY, 64, 2, 4, head=False)
    config = replace(OF_52_PIXELS, text=text, logit_bias_init=None)
    clip = build(config, seed=2).eval()
    model = transformers().SiglipModel(transformers().SiglipConfig(**to_transformers(config))).eval()
    state = in_layout("transformers", config, with_head_and_bias(config, clip.state_dict()))
    model.load_state_dict(state, strict=True)
    assert worst(clip, model) < 1e-5 and model.logit_bias == 0


def test_open_clips_layout_there_and_back_changes_no_bit() -> None:
    clip = build(OURS, seed=2).eval()
    lively(clip)
    mapping, state = to_open_clip(OURS), in_layout("open_clip", OURS, clip.state_dict())
    assert mapping["vision_cfg"]["timm_model_name"] == "vit_micro_siglip"
    assert mapping["text_cfg"]["act_kwargs"] == {"approximate": "tanh"}
    assert state["visual.trunk.attn_pool.kv.weight"].shape == (128, 64)
    assert state["visual.trunk.pos_embed"].shape == (1, 4, 64)
    assert from_open_clip(json.loads(json.dumps(mapping)), state) == OURS
    back = loaded("open_clip", OURS, state).state_dict()
    for name, tensor in clip.state_dict().items():
        assert torch.equal(back[name], tensor), name
    halves = {name: tensor.half() for name, tensor in state.items()}
    halves |= {name: halves[name].reshape(1) for name in ("logit_scale", "logit_bias")}
    back = loaded("open_clip", OURS, halves).state_dict()
    assert back["logit_scale"].shape == back["logit_bias"].shape == ()
    assert {tensor.dtype for tensor in back.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        ({"vision_config": {"vision_use_head": False}}, "vision_use_head"),
        ({"vision_config": {"num_channels": 1}}, "num_channels"),
        ({"vision_config": {"hidden_size": "64"}}, "hidden_size"),
        ({"vision_config": {"hidden_act": "relu"}}, "relu"),
        ({"text_config": {"layer_norm_eps": 1e-5}}, "layer_norm_eps"),
        ({"text_config": {"projection_size": 48}}, "as wide as the shared space"),
    ],
)
def test_configurations_that_mean_another_model_are_refused(change: dict[str, Any], stated: str) -> None:
    config: dict[str, Any] = {"model_type": "siglip", "text_config": TEXT, "vision_config": VISION}
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    with pytest.raises((SettingsError, UnknownNameError), match=stated):
        from_transformers(config)


@pytest.mark.parametrize(
    ("part", "change", "stated"),
    [
        ("vision_cfg", {"timm_model_name": "vit_macro_siglip"}, "vit_micro_siglip"),
        ("vision_cfg", {"timm_pool": "avg"}, "timm_pool"),
        ("text_cfg", {"no_causal_mask": False}, "no_causal_mask"),
        ("text_cfg", {"pool_type": "argmax"}, "pool_type"),
        ("text_cfg", {"norm_kwargs": {}}, "norm_kwargs"),
        ("text_cfg", {"act_kwargs": {"approximate": "sinh"}}, "act_kwargs"),
        ("text_cfg", {"proj_bias": False}, "proj_bias"),
        ("text_cfg", {"embed_cls": True}, "embed_cls"),
    ],
)
def test_open_clip_configurations_that_mean_another_model_are_refused(
    part: str, change: dict[str, Any], stated: str
) -> None:
    mapping = to_open_clip(OURS)
    with pytest.raises((SettingsError, UnknownNameError), match=stated):
        from_open_clip(mapping | {part: mapping[part] | change}, ())


@pytest.mark.parametrize(
    ("write", "config", "stated"),
    [
        (to_transformers, ClipConfig(512, VitConfig(), OURS.text), "vit and siglip"),
        (to_open_clip, replace(OURS, activation="gelu_tanh"), r"(?s)another activation.*vit_micro"),
        (to_open_clip, replace(OURS, vision=replace(OURS.vision, layers=3)), "builds no such"),
        (to_transformers, replace(OURS, vision=replace(OURS.vision, image_size=(32, 48))), "square"),
    ],
)
def test_towers_that_a_library_lacks_are_refused(write: Any, config: ClipConfig, stated: str) -> None:
    with pytest.raises(SettingsError, match=stated):
        write(config)
