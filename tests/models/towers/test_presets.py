"""Every published preset has the tensors, heads, activations and constants of open_clip's model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.peers import run_peer

from diptych.models.formats.layouts import open_clip_rows, write_rows
from diptych.models.formats.open_clip import from_open_clip, to_open_clip
from diptych.models.formats.openai import to_openai_state
from diptych.models.towers.clip import Clip
from diptych.models.towers.config import ClipConfig, ResNetConfig
from diptych.models.towers.presets import PRESETS, preset

SIDE = Path(__file__).parents[1] / "peers" / "open_clip_shapes.py"
OURS_ALONE = {name for name in PRESETS if name.startswith(("vit-", "resnet-"))}
PUBLISHED = sorted(set(PRESETS) - OURS_ALONE)

# Parameters, counted in open_clip 3.3 (without BatchNorm's statistics).
PARAMETERS = {
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "RN50x4": 178_300_601,
    "RN50x16": 290_979_217,
    "RN50x64": 623_258_305,
    "ViT-B-32": 151_277_313,
    "ViT-B-16": 149_620_737,
    "ViT-L-14": 427_616_513,
    "ViT-L-14-336": 427_944_193,
    "ViT-H-14": 986_109_441,
    "ViT-g-14": 1_366_678_273,
    "ViT-bigG-14": 2_539_567_105,
}
ACTIVATION = {
    "QuickGELU()": "quick_gelu",
    "GELU(approximate='none')": "gelu",
    "GELU(approximate='tanh')": "gelu_tanh",
    "GELUTanh()": "gelu_tanh",  # timm's name for the same function
}


def on_meta(config: ClipConfig) -> Clip:
    """Build the model without memory."""
    with torch.device("meta"):
        return Clip(config)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    assert sum(p.numel() for p in on_meta(preset(name)).parameters()) == PARAMETERS[name]


def open_clip_name(name: str) -> str:
    """Return open_clip's name: there the plain one has exact GELU, here what the paper's weights want."""
    if name.endswith(("-gelu", "-quickgelu")) or "SigLIP" in name:
        return name.removesuffix("-gelu")
    quick = preset(name).activation == "quick_gelu"
    return f"{name}-quickgelu" if quick else name


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "names.json").write_text(json.dumps([open_clip_name(name) for name in PUBLISHED]))
    run_peer(SIDE, folder)
    found: dict[str, Any] = json.loads((folder / "shapes.json").read_text())
    return found


@pytest.mark.deep
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_open_clips_model_of_that_name(name: str, facts: dict[str, Any]) -> None:
    config, theirs = preset(name), facts[open_clip_name(name)]
    state = on_meta(config).state_dict()
    if config.vision.kind == "siglip":
        mapping, renamed = to_open_clip(config), write_rows(open_clip_rows(config, state), state)
        read = from_open_clip(theirs["config"], renamed)
        # Where scale and bias start is training's matter; the tokenizer's ids are not in their configuration.
        same = replace(read, logit_scale_init=config.logit_scale_init)
        assert replace(same, text=replace(read.text, pad_id=config.text.pad_id)) == config  # type: ignore
        for part, free in (("vision_cfg", set()), ("text_cfg", {"hf_tokenizer_name"})):
            wanted = theirs["config"][part]
            assert all(mapping[part][key] == wanted[key] for key in wanted.keys() - free), part
    else:
        renamed = to_openai_state(state)
    assert {key: list(tensor.shape) for key, tensor in renamed.items()} == theirs["shapes"]
    text_activation = config.text_activation or config.activation
    assert [ACTIVATION[found] for found in theirs["text"]["activations"]] == [text_activation]
    assert theirs["text"]["heads"] == [config.text.heads]
    assert theirs["visual"]["heads"] == [config.vision.heads]
    assert theirs["text"]["eps"] == [config.layer_norm_eps]
    if not isinstance(config.vision, ResNetConfig):
        assert [ACTIVATION[found] for found in theirs["visual"]["activations"]] == [config.activation]
        assert theirs["visual"]["eps"] == [config.layer_norm_eps]
