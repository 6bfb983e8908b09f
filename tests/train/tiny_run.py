"""A tiny data set, model and run, for the tests of training."""

import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.core.records import Counts, Pair
from diptych.data.images.transforms import Preprocess
from diptych.data.loader import Loader, LoaderSettings
from diptych.data.shards.reader import ShardSet
from diptych.data.shards.writer import ShardSettings, write_shards
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig
from diptych.train.settings import TrainSettings
from diptych.train.trainer import train

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230), "white": (250, 250, 250)}
SIZE, CONTEXT = 16, 16


def pairs(count: int) -> Iterator[Pair]:
    """Pictures of one colour each, with one or two captions."""
    rng = np.random.default_rng(7)
    names = list(COLOURS)
    for number in range(count):
        colour = names[number % len(names)]
        pixels = np.clip(rng.normal(COLOURS[colour], 12, (20, 24, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG" if number % 3 else "JPEG")
        captions = (f"a {colour} picture", f"number {number} is quite {colour}")[: 1 + number % 2]
        yield Pair(f"{number:05d}", buffer.getvalue(), captions, {"colour": colour})


def make_data(work: Path, count: int = 50) -> None:
    """Write shards (several, so that a batch crosses them) and a vocabulary."""
    settings = ShardSettings(max_samples=20)
    write_shards(pairs(count), work / "shards", settings=settings, counts=Counts())
    texts = [caption for pair in pairs(count) for caption in pair.captions]
    Tokenizer.train(texts, size=600, context_length=CONTEXT).save(work / "tokenizer")


def make_model(work: Path, *, kind: str = "resnet", seed: int = 1) -> Model:
    tokenizer = Tokenizer.load(work / "tokenizer")
    vision: VitConfig | ResNetConfig = VitConfig((SIZE, SIZE), 8, 32, 2, 2)
    if kind == "resnet":  # BatchNorm's running statistics are state too
        vision = ResNetConfig((SIZE, SIZE), (1, 1, 1, 1), 4, 4, stem_pool=False)
    text = TextConfig(CONTEXT, tokenizer.vocab_size, 32, 2, 2, tokenizer.start_id, tokenizer.end_id)
    clip = build(ClipConfig(16, vision, text), seed=seed)
    return Model(clip, tokenizer, Preprocess(size=(SIZE, SIZE)))


def make_settings(**changes: object) -> TrainSettings:
    settings = TrainSettings(
        steps=60, batch_size=8, learning_rate=2e-3, warmup_steps=5, log_every=1, save_every_steps=7,
        max_grad_norm=1.0, precision="float32", seed=3,
    )  # fmt: skip
    return replace(settings, **changes)  # type: ignore[arg-type]


def make_loader(work: Path, model: Model, settings: TrainSettings, *, workers: int = 0) -> Loader:
    loader_settings = LoaderSettings(settings.batch_size, workers=workers, seed=settings.seed)
    return Loader(ShardSet.open(work / "shards"), model.tokenizer, model.preprocess, loader_settings)


def run(work: Path, run_folder: Path, *, resume: bool, workers: int, failpoint: str = "") -> None:
    """Train in a process of its own; ends it with the run's exit code.

    Args:
        work: holds the shards and the vocabulary.
        run_folder: for the run.
        resume: go on with it.
        workers: of the loader.
        failpoint: durable step at which the process ends without any clean-up, as in core/files.
    """
    if failpoint:
        os.environ.update(DIPTYCH_TESTING="1", DIPTYCH_FAILPOINT=failpoint)
    torch.set_num_threads(1)
    model = make_model(work)
    settings = make_settings()
    loader = make_loader(work, model, settings, workers=workers)
    sys.exit(train(model, loader, settings, run_folder=run_folder, resume=resume).exit_code)


def call(file: str, name: str, *args: Any) -> None:
    """Call a function of a test file in a process of its own: the file is no module there."""
    specification = importlib.util.spec_from_file_location("called", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    getattr(module, name)(*args)
