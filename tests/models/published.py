"""Small models with random weights in the formats of others, for the tests of loading and converting."""

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.model import Model
from diptych.models.verification import CAPTIONS

WORDS = Tokenizer.train(
    ["a photo of a red dog", "two blue squares above a circle"] * 9, size=560, context_length=20
)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class GELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class ResidualAttentionBlock(nn.Module):
    """OpenAI's block, by the names and shapes of its weights."""

    def __init__(self, width: int, activation: nn.Module, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=activation, c_proj=nn.Linear(4 * width, width))
        )
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, activation: nn.Module, mask: Tensor | None = None) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(
            *(ResidualAttentionBlock(width, activation, mask) for _ in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self, activation: nn.Module, size: int = 32, patch: int = 16, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, 2, activation)
        self.proj = nn.Parameter(torch.randn(width, 24) / 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding + torch.zeros(x.shape[0], 1, x.shape[2])
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        return self.ln_post(x[:, 0]) @ self.proj


class OpenaiClip(nn.Module):
    """OpenAI's CLIP by the paper's description, with the names of its published weights."""

    def __init__(self, activation: nn.Module | None = None, width: int = 64) -> None:
        super().__init__()
        activation = activation or QuickGELU()
        length = WORDS.context_length
        self.visual = Visual(activation)
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.transformer = Transformer(width, 2, activation, mask)
        self.token_embedding = nn.Embedding(WORDS.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, 24) / 8)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_text(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x.transpose(0, 1)).transpose(0, 1))
        return x[torch.arange(len(x)), tokens.argmax(-1)] @ self.text_projection

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = F.normalize(self.visual(pixels), dim=-1)
        return images, F.normalize(self.encode_text(tokens), dim=-1), self.logit_scale.exp()


def openai_clip(activation: nn.Module | None = None) -> OpenaiClip:
    """Return such a model with random weights that half precision holds exactly."""
    torch.manual_seed(0)
    model = OpenaiClip(activation).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def write_archive(path: Path, model: OpenaiClip) -> None:
    """Write a TorchScript archive as OpenAI did: traced, in half precision, with three numbers beside."""
    inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, WORDS.context_length, dtype=torch.long)
    for name, value in (("input_resolution", 32), ("context_length", 20), ("vocab_size", WORDS.vocab_size)):
        model.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and OpenAI's files are what they are
        traced = torch.jit.trace(model, inputs, check_trace=False)
    for name, parameter in traced.named_parameters():
        if parameter.ndim > 1 and "embedding" not in name:
            parameter.data = parameter.data.half()
    traced.save(str(path))
    for parameter in model.parameters():
        parameter.data = parameter.data.float()


OPEN_CLIP: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 20, "vocab_size": WORDS.vocab_size, "width": 64, "heads": 1, "layers": 2,
        },
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}  # fmt: skip


ALONE: dict[str, Any] = {"tokenizer": WORDS, "preprocess": "clip", "config": OPEN_CLIP["model_cfg"]}
"""What weights alone do not say of this model, whose shape nobody published."""
ALONE_GELU = ALONE | {"config": OPEN_CLIP["model_cfg"] | {"quick_gelu": False}}


def with_rows(count: int) -> dict[str, Any]:
    """Return open_clip's configuration of this model with another size of its vocabulary."""
    text = OPEN_CLIP["model_cfg"]["text_cfg"] | {"vocab_size": count}
    return OPEN_CLIP["model_cfg"] | {"text_cfg": text}


def theirs(activation: torch.nn.Module | None = None) -> dict[str, torch.Tensor]:
    return dict(openai_clip(activation).state_dict())


def open_clip_folder(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    folder.mkdir(parents=True)
    document = json.loads(json.dumps(OPEN_CLIP))
    change(document)
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    save_file(theirs(), folder / "open_clip_model.safetensors")
    WORDS.save(folder)
    return folder


def agrees(model: Model, activation: torch.nn.Module | None = None) -> None:
    """Hold both towers against OpenAI's CLIP as the paper describes it."""
    tokens = model.tokenize(CAPTIONS)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images, texts, scale = openai_clip(activation)(pixels, tokens)
    assert (model.encode_image(pixels, normalize=True) - images).abs().max() < 1e-5
    assert (model.encode_text(tokens, normalize=True) - texts).abs().max() < 1e-5
    assert torch.equal(model.clip.logit_scale.exp(), scale)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, (str(self.canary),)


def cached(cache: Path, repository: str, files: dict[str, bytes], *, commit: str = "c" * 40) -> Path:
    """Lay files out as huggingface_hub keeps them; return the folder of the commit."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "blobs").mkdir()
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    for name, data in files.items():
        blob = home / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (folder / name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    return folder
