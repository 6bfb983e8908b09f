"""The other side of `training.py`: one training step of open_clip or transformers, as their users run it.

    python training_peer.py open_clip|transformers

Runs in the peers' environment, which need not have diptych. Reads questions and writes answers, one JSON line
each.
"""

import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

BETA1, WEIGHT_DECAY = 0.9, 0.2
LARGEST_LOGIT_SCALE = math.log(100)


def timed(step: Callable[[], Any], count: int) -> dict[str, Any]:
    """Do some steps; return wall time, processor time of all threads, and the losses (read at the end)."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    losses = [float(loss) for loss in [step() for _ in range(count)]]
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - begin_cpu,
        "losses": losses,
    }


def import_torchvision():
    """Import torchvision; without its compiled operators it still serves if two of them are declared."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return operators  # they last as long as this object
    return None


def open_clip_model(config: dict[str, Any]):
    """Build open_clip's CLIP with the towers that a diptych configuration describes."""
    import open_clip
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision, text = config["vision"], config["text"]
    resnet = vision["kind"] == "resnet"
    width = vision["width"] * 32 if resnet else vision["width"]
    shape = {} if resnet else {"patch_size": vision["patch_size"], "mlp_ratio": vision["mlp_ratio"]}
    model = CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=CLIPVisionCfg(
            layers=tuple(vision["layers"]) if resnet else vision["layers"],
            width=vision["width"],
            head_width=width // vision["heads"],
            # its ModifiedResNet knows square images only; `fit_pool` sets the grid right
            image_size=max(vision["image_size"]) if resnet else tuple(vision["image_size"]),
            **shape,
        ),
        text_cfg=CLIPTextCfg(
            context_length=text["context_length"],
            vocab_size=text["vocab_size"],
            width=text["width"],
            heads=text["heads"],
            layers=text["layers"],
        ),
        quick_gelu=config["activation"] == "quick_gelu",
        output_dict=True,
    )
    if resnet:
        fit_pool(model.visual, vision)
    return model, open_clip.ClipLoss()


def fit_pool(visual: Any, vision: dict[str, Any]) -> None:
    """Give open_clip's ModifiedResNet the grid of an image that need not be square, and our stem."""
    import torch

    stride = 32 if vision.get("stem_pool", True) else 16
    cells = math.prod(side // stride for side in vision["image_size"])
    width = visual.attnpool.positional_embedding.shape[1]
    visual.attnpool.positional_embedding = torch.nn.Parameter(torch.randn(cells + 1, width) / width**0.5)
    if not vision.get("stem_pool", True):
        visual.avgpool = torch.nn.Identity()


def transformers_model(config: dict[str, Any]):
    """Build transformers' CLIPModel with the same towers, or say why it cannot."""
    from transformers import CLIPConfig, CLIPModel

    vision, text = config["vision"], config["text"]
    if vision["kind"] != "vit":
        return None
    if vision["image_size"][0] != vision["image_size"][1]:
        return None
    shared = {"hidden_act": config["activation"], "projection_dim": config["embed_dim"]}
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": text["vocab_size"],
                "hidden_size": text["width"],
                "intermediate_size": int(text["width"] * text["mlp_ratio"]),
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "max_position_embeddings": text["context_length"],
                "bos_token_id": text["start_id"],
                "eos_token_id": text["end_id"],
                "pad_token_id": 0,
                **shared,
            },
            vision_config={
                "hidden_size": vision["width"],
                "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["heads"],
                "image_size": vision["image_size"][0],
                "patch_size": vision["patch_size"],
                **shared,
            },
            projection_dim=config["embed_dim"],
        )
    )


def optimizer_of(model: Any, config: dict[str, Any], learning_rate: float, **options: Any) -> Any:
    """Return AdamW with the paper's constants; gains, biases and the logit scale do not decay."""
    import torch

    beta2, epsilon = (0.999, 1e-8) if config["vision"]["kind"] == "resnet" else (0.98, 1e-6)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(BETA1, beta2), eps=epsilon, **options)


class OpenClip:
    """open_clip 3.3: what `train_one_epoch` does with a batch (autocast around model and loss)."""

    def __init__(self, config: dict[str, Any], learning_rate: float, device: str) -> None:
        self.model, self.loss = open_clip_model(config)
        self.model.to(device)
        self.optimizer = optimizer_of(self.model, config, learning_rate)

    def forward(self, pixels: Any, tokens: Any) -> Any:
        """Return the loss."""
        losses = self.loss(**self.model(pixels, tokens), output_dict=True)
        return sum(losses.values())


class Transformers:
    """transformers 5: its model with `return_loss`, padded input with a mask, the Trainer's optimizer."""

    def __init__(self, config: dict[str, Any], learning_rate: float, device: str) -> None:
        import torch

        self.model = transformers_model(config).to(device)
        self.optimizer = optimizer_of(self.model, config, learning_rate, fused=True)
        self._end = config["text"]["end_id"]
        self._places = torch.arange(config["text"]["context_length"], device=device)

    def forward(self, pixels: Any, tokens: Any) -> Any:
        """Return the loss."""
        ends = (tokens == self._end).int().argmax(dim=1, keepdim=True)
        mask = (self._places[: tokens.shape[1]] <= ends).long()
        return self.model(input_ids=tokens, attention_mask=mask, pixel_values=pixels, return_loss=True).loss


class Peer:
    """The contestant: builds a model, then does steps."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(
        self,
        *,
        config: dict[str, Any],
        precision: str,
        learning_rate: float,
        device: str = "cpu",
        compiled: bool = False,
        **data: Any,
    ) -> dict[str, Any]:
        """Build model and optimizer; return the facts about them."""
        import torch

        if self.name == "transformers" and config["vision"]["kind"] != "vit":
            return {"skipped": "transformers' CLIPModel has no ResNet tower"}
        torch.manual_seed(0)
        side = OpenClip if self.name == "open_clip" else Transformers
        self.side = side(config, learning_rate, device)
        self.side.model.train()
        if compiled:
            self.side.model.compile()
        self.device = device
        self.lower = precision == "bfloat16"
        self.batches, self.done = batches(**data), 0
        if device != "cpu":  # as their loaders do
            self.batches = [tuple(part.pin_memory() for part in batch) for batch in self.batches]
        names = ("open_clip_torch", "torch") if self.name == "open_clip" else ("transformers", "torch")
        return {
            "parameters": sum(parameter.numel() for parameter in self.side.model.parameters()),
            "versions": {name: version(name) for name in names},
            "threads": torch.get_num_threads(),
        }

    def steps(self, *, count: int) -> dict[str, Any]:
        """Do some steps; return seconds and losses."""
        import torch

        side, device = self.side, self.device
        scale = side.model.logit_scale

        def step() -> Any:
            pixels, tokens = self.batches[self.done % len(self.batches)]
            self.done += 1
            pixels, tokens = (part.to(device, non_blocking=True) for part in (pixels, tokens))
            side.optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.lower):
                loss = side.forward(pixels, tokens)
            loss.backward()
            side.optimizer.step()
            with torch.no_grad():
                scale.clamp_(0, LARGEST_LOGIT_SCALE)
            return loss.detach()

        return timed(step, count)


def batches(*, folder: str, batch_size: int, mean: Any, std: Any, **_others: Any) -> list[Any]:
    """Return normalized pixels (B, 3, H, W) float32 and padded tokens (B, L), as a DataLoader hands out."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.load(Path(folder) / "pixels.npy")).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    pixels = pixels.contiguous()
    tokens = torch.from_numpy(np.load(Path(folder) / "tokens.npy"))
    return list(zip(pixels.split(batch_size), tokens.split(batch_size), strict=True))


def main() -> None:
    from contest import answer_questions

    _operators = import_torchvision()
    peer = Peer(sys.argv[1])
    answer_questions({"build": peer.build, "steps": peer.steps})


if __name__ == "__main__":
    main()
