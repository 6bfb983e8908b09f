"""The other side of `fashion.py`: train open_clip's model for some seconds, then embed the test set.

    python fashion_peer.py TASK.json

Runs in the peers' environment, which need not have diptych. Reads the task that `fashion.py` wrote; writes
`image_embeds.npy`, `text_embeds.npy` and `figures.json` beside it.
"""

import io
import json
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from training_peer import LARGEST_LOGIT_SCALE, import_torchvision, open_clip_model

_operators = import_torchvision()

from torchvision import transforms  # noqa: E402

TOLD_EVERY = 20  # steps


class Photos(Dataset):
    """The images of a Parquet file through a transform, with their titles' tokens if there are any."""

    def __init__(self, path: str, column: str, transform: Any, tokens: np.ndarray | None = None) -> None:
        import pyarrow.parquet as pq

        self.images = pq.read_table(path, columns=[column])[column].to_pylist()
        self.transform, self.tokens = transform, tokens

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Any:
        pixels = self.transform(Image.open(io.BytesIO(self.images[number])).convert("RGB"))
        return pixels if self.tokens is None else (pixels, torch.from_numpy(self.tokens[number]))


def transform(task: dict[str, Any], *, train: bool) -> Any:
    """Return the recipe's transform as open_clip's users write one."""
    bicubic = transforms.InterpolationMode.BICUBIC
    steps: list[Any] = [transforms.Resize(task["train_size"] if train else task["size"], bicubic)]
    if train:
        steps.append(transforms.RandomCrop(task["size"], task["train_pad"], padding_mode="edge"))
    if train and task["flip"]:
        steps.append(transforms.RandomHorizontalFlip())
    steps += [transforms.ToTensor(), transforms.Normalize(task["mean"], task["std"])]
    return transforms.Compose(steps)


def rate_at(share: float, task: dict[str, Any]) -> float:
    """Return the learning rate where `share` of the time is over: linear rise, then a cosine to zero."""
    warmup = task["warmup_share"]
    if share < warmup:
        return task["learning_rate"] * share / warmup
    done = min(1.0, (share - warmup) / (1 - warmup))
    return task["learning_rate"] * 0.5 * (1 + math.cos(math.pi * done))


def train(model: Any, loss: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Train until the time is over; return what was done."""
    tokens = np.load(Path(task["folder"]) / "train_tokens.npy")
    photos = Photos(task["train"], task["column"], transform(task, train=True), tokens)
    loader = DataLoader(
        photos,
        task["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=task["workers"],
        persistent_workers=task["workers"] > 0,
    )
    constants = task["adamw"]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": constants["weight_decay"]},
    ]
    betas = constants["beta1"], constants["beta2"]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=constants["epsilon"])
    lower = task["precision"] == "bfloat16"
    model.train()
    step, losses = 0, []
    begin = time.monotonic()
    while True:
        for pixels, ids in loader:
            share = (time.monotonic() - begin) / task["seconds"]
            if share >= 1:
                return {"steps": step, "seconds": time.monotonic() - begin, "last_loss": float(losses[-1])}
            for group in optimizer.param_groups:
                group["lr"] = rate_at(share, task)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
                found = loss(**model(pixels, ids), output_dict=True)
                total = sum(found.values())
            total.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)
            losses.append(total.detach())
            step += 1
            if step % TOLD_EVERY == 0:
                print(f"open_clip: step {step}, {share:.0%}, loss {float(losses[-1]):.4f}", file=sys.stderr)


@torch.no_grad()
def embed(model: Any, task: dict[str, Any]) -> None:
    """Write unit-length embeddings of the test images and of all texts, in order."""
    folder = Path(task["folder"])
    photos = Photos(task["test"], task["column"], transform(task, train=False))
    model.eval()
    images = [model.encode_image(batch, normalize=True) for batch in DataLoader(photos, 256)]
    np.save(folder / "image_embeds.npy", torch.cat(images).float().numpy())
    tokens = torch.from_numpy(np.load(folder / "text_tokens.npy"))
    texts = [model.encode_text(batch, normalize=True) for batch in tokens.split(256)]
    np.save(folder / "text_embeds.npy", torch.cat(texts).float().numpy())


def main() -> None:
    """Do the task."""
    task = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.manual_seed(0)
    model, loss = open_clip_model(task["config"])
    figures = train(model, loss, task)
    pairs = figures["steps"] * task["batch_size"]
    figures |= {
        "pairs_seen": pairs,
        "pairs_per_second": round(pairs / figures["seconds"], 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {name: version(name) for name in ("open_clip_torch", "torch", "torchvision", "pillow")},
    }
    embed(model, task)
    (Path(task["folder"]) / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
