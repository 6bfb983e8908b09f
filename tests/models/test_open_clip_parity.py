"""Our towers against open_clip's with the same weights: embeddings, and ten steps of AdamW."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.peers import run_peer
from torch.nn import functional as F

from diptych.models.formats.openai import to_openai_state
from diptych.models.towers.clip import Clip, build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig

SIDE = Path(__file__).parent / "peers" / "open_clip_side.py"
# BatchNorm over small batches amplifies rounding: at 24 images a ResNet drifts by 1.3e-4, at 128 by 1.7e-5.
STEPS, BATCH, LR = 10, 128, 5e-4

TEXT = TextConfig(context_length=24, vocab_size=500, width=128, layers=3, heads=2, start_id=498, end_id=499)
VIT = ClipConfig(96, VitConfig((64, 64), 16, 128, 3, 2), TEXT)
CONFIGS = {
    "vit": VIT,
    "vit-gelu": replace(VIT, activation="gelu"),
    "resnet": ClipConfig(96, ResNetConfig((64, 64), (2, 1, 1, 1), 16, 8), TEXT),
}


def open_clip_setup(config: ClipConfig) -> dict[str, object]:
    vision: dict[str, object] = {"image_size": config.vision.image_size[0]}
    if isinstance(config.vision, VitConfig):
        vision |= {"patch_size": config.vision.patch_size, "layers": config.vision.layers}
    else:
        vision |= {"layers": list(config.vision.layers)}
    text = {
        name: getattr(TEXT, name) for name in ("context_length", "vocab_size", "width", "layers", "heads")
    }
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": vision | {"width": config.vision.width},
        "text_cfg": text,
        "quick_gelu": config.activation == "quick_gelu",
        "lr": LR,
    }


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(STEPS, BATCH, 3, 64, 64, generator=generator)
    tokens = torch.randint(1, 490, (STEPS, BATCH, TEXT.context_length), generator=generator)
    tokens[..., 0] = TEXT.start_id
    ends = torch.randint(1, TEXT.context_length, (STEPS, BATCH, 1), generator=generator)
    places = torch.arange(TEXT.context_length)
    tokens = tokens.where(places < ends, 0).where(places != ends, TEXT.end_id)
    return pixels, tokens


def our_losses(clip: Clip, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    clip.train()
    plain = [p for p in clip.parameters() if p.ndim < 2]
    decayed = [p for p in clip.parameters() if p.ndim >= 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    for step in range(STEPS):
        images, texts, scale = clip(pixels[step], tokens[step])
        logits = scale * images @ texts.T
        targets = torch.arange(BATCH)
        loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.deep
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", CONFIGS)
def test_copied_weights_embed_and_train_as_in_open_clip(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    clip = build(config, seed=3)
    if isinstance(config.vision, ResNetConfig):
        # A zero bn3 would hide the residual branches.
        for key, parameter in clip.vision.named_parameters():
            if key.endswith("bn3.weight"):
                torch.nn.init.constant_(parameter, 0.5)
    pixels, tokens = batches()
    setup = open_clip_setup(config)
    (tmp_path / "setup.json").write_text(json.dumps(setup))
    save_file(to_openai_state(clip.state_dict()), tmp_path / "weights.safetensors")
    save_file({"pixels": pixels, "tokens": tokens}, tmp_path / "batch.safetensors")
    run_peer(SIDE, tmp_path)
    theirs = load_file(tmp_path / "out.safetensors")

    clip.eval()
    with torch.no_grad():
        ours = {"image": clip.encode_image(pixels[0]), "text": clip.encode_text(tokens[0])}
    for kind, features in ours.items():
        expected = theirs[f"{kind}_features"]
        difference = (F.normalize(features, dim=-1) - F.normalize(expected, dim=-1)).abs().max().item()
        print(f"{name} {kind}: max difference of unit embeddings {difference:.2e}")
        assert difference < 1e-5
    losses = our_losses(clip, pixels, tokens)
    error = ((losses - theirs["losses"]).abs() / theirs["losses"]).max().item()
    print(f"{name} losses {losses[0]:.4f} to {losses[-1]:.4f}: max relative difference {error:.2e}")
    assert error < 1e-4
