"""The peer's half of test_siglip_open_clip: runs under a Python with open_clip, never imports diptych.

Usage: python open_clip_siglip.py write|read FOLDER. Both read batch.safetensors and write
features.safetensors.

- write: builds model_cfg.json with lively weights, saves open_clip_model.safetensors.
- read: open_clip's own loader opens FOLDER, in which the other side wrote a checkpoint.
"""

import json
import sys
from pathlib import Path

import torch
import torchvision_stub  # noqa: F401 — before open_clip
from open_clip import create_model
from open_clip.model import CustomTextCLIP
from safetensors.torch import load_file, save_file


def lively(model: torch.nn.Module) -> None:
    """Give every parameter values that matter, gains and biases too."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.2 if parameter.ndim < 2 else 0.03))


def written(folder: Path) -> torch.nn.Module:
    config = json.loads((folder / "model_cfg.json").read_text())
    del config["custom_text"]
    torch.manual_seed(0)
    model = CustomTextCLIP(**config)
    lively(model)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return model


def main(what: str, folder: Path) -> None:
    model = written(folder) if what == "write" else create_model(f"local-dir:{folder}")
    model.eval()
    batch = load_file(folder / "batch.safetensors")
    with torch.no_grad():
        features = {
            "image": model.encode_image(batch["pixels"], normalize=True),
            "text": model.encode_text(batch["tokens"], normalize=True),
        }
        logits, _ = model.get_logits(batch["pixels"], batch["tokens"])
    save_file({**features, "logits": logits.contiguous()}, folder / "features.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
