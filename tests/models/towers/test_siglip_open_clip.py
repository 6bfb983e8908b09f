"""SigLIP's towers beside open_clip's (timm's image tower), with weights of either side."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.peers import run_peer

from diptych.models.formats.layouts import open_clip_rows, read_rows, write_rows
from diptych.models.formats.open_clip import from_open_clip, to_open_clip
from diptych.models.towers.clip import Clip, build
from diptych.models.towers.config import ClipConfig, SiglipTextConfig
from diptych.models.towers.presets import preset

SIDE = Path(__file__).parents[1] / "peers" / "open_clip_siglip.py"
CONTEXT, VOCABULARY = 16, 120

TEXT = SiglipTextConfig(CONTEXT, VOCABULARY, width=96, layers=3, heads=4, mlp_ratio=3.7362)
HEADLESS = SiglipTextConfig(CONTEXT, VOCABULARY, width=768, layers=1, heads=12, head=False)
# Image towers that timm builds (it has no smaller ones), small text towers.
CONFIGS = {
    "SigLIP 2, exact and tanh": replace(preset("ViT-B-16-SigLIP2-256"), text=TEXT),
    "no text head": replace(preset("ViT-B-32-SigLIP2-256"), text=HEADLESS),
}


def theirs(what: str, folder: Path, config: ClipConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, VOCABULARY, (8, CONTEXT), generator=generator)
    for row, length in enumerate((0, CONTEXT, 1, 3, 5, 7, 9, 10)):
        tokens[row, length:] = 1
    batch = {"pixels": torch.randn(4, 3, *config.vision.image_size, generator=generator), "tokens": tokens}
    save_file(batch, folder / "batch.safetensors")
    run_peer(SIDE, what, folder)
    return batch | load_file(folder / "features.safetensors")


def require_agreement(clip: Clip, found: dict[str, torch.Tensor], name: str) -> None:
    with torch.no_grad():
        images, texts, scale = clip.eval()(found["pixels"], found["tokens"])
        assert clip.logit_bias is not None
        logits = scale * images @ texts.T + clip.logit_bias
    differences = [(images - found["image"]).abs().max().item(), (texts - found["text"]).abs().max().item()]
    print(f"{name}: max difference of unit embeddings {differences[0]:.1e}, {differences[1]:.1e}")
    assert max(differences) < 1e-5
    assert torch.allclose(logits, found["logits"], atol=1e-3)


def document(config: ClipConfig) -> dict[str, Any]:
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    return {"model_cfg": to_open_clip(config), "preprocess_cfg": preprocess}


@pytest.mark.deep
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", CONFIGS)
def test_what_open_clip_saves_and_what_we_write_embeds_alike(name: str, tmp_path: Path) -> None:
    config, written = CONFIGS[name], document(CONFIGS[name])
    (tmp_path / "model_cfg.json").write_text(json.dumps(written["model_cfg"]))
    found = theirs("write", tmp_path, config)
    saved = load_file(tmp_path / "open_clip_model.safetensors")
    assert from_open_clip(written["model_cfg"], saved) == config
    clip = build(config, seed=0)
    clip.load_state_dict(read_rows(open_clip_rows(config, clip.state_dict()), saved), strict=True)
    require_agreement(clip, found, name)
    clip = build(config, seed=4)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(written))
    state = write_rows(open_clip_rows(config, ()), clip.state_dict())
    save_file(state, tmp_path / "open_clip_model.safetensors")
    require_agreement(clip, theirs("read", tmp_path, config), name)
