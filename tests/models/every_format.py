"""One small checkpoint per format that `load` reads, for the tests that damage them."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.models.published import ALONE, WORDS, open_clip_folder, openai_clip, theirs, write_archive
from tests.models.test_transformers_files import clip_model, saved

from diptych.models import checkpoint
from diptych.models.formats.convert import convert
from diptych.models.load import load

CONFIG, OPEN_CLIP_CONFIG, PROCESSOR = "config.json", "open_clip_config.json", "processor_config.json"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Made:
    """A checkpoint: what to load, with which words, and the names of its files by what they are."""

    ref: str
    weights: str
    stated: dict[str, Any] = field(default_factory=dict)
    configs: tuple[str, ...] = ()
    tokenizer: str = ""


def own(folder: Path) -> Made:
    checkpoint.save(folder / "run", load(open_clip_folder(folder / "from")))
    shutil.rmtree(folder / "from")
    return Made("run", "run/model.safetensors", {}, ("run/config.json",), "run/tokenizer.json")


def archive(folder: Path) -> Made:
    write_archive(folder / "ViT.pt", openai_clip())
    return Made("ViT.pt", "ViT.pt", {"tokenizer": WORDS})


def state_dict(folder: Path) -> Made:
    torch.save(theirs(), folder / "state.pt")
    return Made("state.pt", "state.pt", {"activation": "quick_gelu", **ALONE})


def legacy(folder: Path) -> Made:
    torch.save(theirs(), folder / "old.bin", _use_new_zipfile_serialization=False)
    return Made("old.bin", "old.bin", {"activation": "quick_gelu", **ALONE})


def training(folder: Path) -> Made:
    named = {f"module.{name}": tensor for name, tensor in theirs().items()}
    torch.save({"epoch": 1, "state_dict": named}, folder / "epoch_1.pt")
    return Made("epoch_1.pt", "epoch_1.pt", {"activation": "quick_gelu", **ALONE})


def safetensors(folder: Path) -> Made:
    save_file(theirs(), folder / "alone.safetensors")
    return Made("alone.safetensors", "alone.safetensors", {"activation": "quick_gelu", **ALONE})


def open_clip(folder: Path) -> Made:
    open_clip_folder(folder / "hub")
    weights = "hub/open_clip_model.safetensors"
    return Made("hub", weights, {}, (f"hub/{OPEN_CLIP_CONFIG}",), "hub/tokenizer.json")


def open_clip_bin(folder: Path) -> Made:
    made = open_clip(folder)
    (folder / made.weights).unlink()
    torch.save(theirs(), folder / "hub" / "open_clip_pytorch_model.bin")
    return Made("hub", "hub/open_clip_pytorch_model.bin", {}, made.configs, made.tokenizer)


def converted(folder: Path) -> Made:
    convert(load(open_clip_folder(folder / "from")), folder / "out", "open_clip")
    shutil.rmtree(folder / "from")
    weights = "out/open_clip_model.safetensors"
    return Made("out", weights, {}, (f"out/{OPEN_CLIP_CONFIG}",), "out/tokenizer.json")


def transformers(folder: Path) -> Made:
    saved(folder / "hf", clip_model())
    configs = (f"hf/{CONFIG}", f"hf/{PROCESSOR}")
    return Made("hf", "hf/model.safetensors", {}, configs, "hf/tokenizer.json")


def transformers_bin(folder: Path) -> Made:
    made = transformers(folder)
    torch.save(load_file(folder / made.weights), folder / "hf" / "pytorch_model.bin")
    (folder / made.weights).unlink()
    return Made("hf", "hf/pytorch_model.bin", {}, made.configs, made.tokenizer)


def transformers_sharded(folder: Path) -> Made:
    saved(folder / "hf", clip_model(), max_shard_size="100KB")
    listed = json.loads((folder / "hf" / INDEX).read_text())["weight_map"]
    shard = listed["visual_projection.weight"]
    return Made("hf", f"hf/{shard}", {}, (f"hf/{CONFIG}", f"hf/{PROCESSOR}"), "hf/tokenizer.json")


FORMATS = {
    make.__name__: make
    for make in (
        own, archive, state_dict, legacy, training, safetensors, open_clip, open_clip_bin, converted,
        transformers, transformers_bin, transformers_sharded,
    )
}  # fmt: skip
WITHOUT_CONFIG = ("archive", "state_dict", "legacy", "training", "safetensors")
PICKLES = ("archive", "state_dict", "legacy", "training", "open_clip_bin", "transformers_bin")
INDEXED = ("transformers_sharded",)
