"""The peer's half of test_open_clip_parity: runs under a Python that has open_clip, never imports diptych.

Usage: python open_clip_side.py FOLDER. Reads setup.json, weights.safetensors, batch.safetensors; writes
out.safetensors with features before training and the losses of the AdamW steps.
"""

import json
import math
import sys
from pathlib import Path

import torch
import torchvision_stub  # noqa: F401 — before open_clip
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file


def main(folder: Path) -> None:
    setup = json.loads((folder / "setup.json").read_text())
    torch.set_num_threads(1)
    model = CLIP(setup["embed_dim"], setup["vision_cfg"], setup["text_cfg"], quick_gelu=setup["quick_gelu"])
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    batch = load_file(folder / "batch.safetensors")
    model.eval()
    with torch.no_grad():
        out = {
            "image_features": model.encode_image(batch["pixels"][0]),
            "text_features": model.encode_text(batch["tokens"][0]),
        }
    model.train()
    plain = [p for p in model.parameters() if p.ndim < 2]
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=setup["lr"], betas=(0.9, 0.98), eps=1e-6)
    losses = []
    for pixels, tokens in zip(batch["pixels"], batch["tokens"], strict=True):
        images, texts, scale = model(pixels, tokens)
        loss = ClipLoss()(images, texts, scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, folder / "out.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
