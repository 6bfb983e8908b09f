"""Train small models by one of three objectives and watch what they can name along the way.

Reads: packed shards and a test source. Writes: nothing; see `claims.py` for what is kept.
Source: Radford et al. 2021, section 2.3 and figure 2 (three objectives), figure 9 (models of several sizes).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import SettingsError
from diptych.core.progress import Progress
from diptych.core.records import Counts
from diptych.data.loader import Batch, Loader, LoaderSettings
from diptych.evaluate.classifier import build_classifier
from diptych.evaluate.metrics.classification import score_ranks
from diptych.evaluate.prompts.templates import BARE, Templates
from diptych.models.inputs import image_pixels
from diptych.models.model import Model
from diptych.models.towers.clip import Clip, build, unit_length
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig
from diptych.models.towers.numerics import numerics
from diptych.train.loss import contrastive_loss
from diptych.train.settings import TrainSettings
from diptych.train.steps import Loss, TrainStep
from experiments.claims import predictive

if TYPE_CHECKING:
    from diptych.data.images.transforms import Preprocess
    from diptych.data.shards.reader import ShardSet
    from diptych.data.sources.open import Source
    from diptych.models.tokenizers import AnyTokenizer

Objective = Literal["contrastive", "bag of words", "caption"]

PICTURES_AT_ONCE = 256
COUNTED_PAIRS = 16
"""Pairs whose arithmetic is counted: enough that captions have their average length."""
BACKWARD = 3
"""Forward and backward together cost three forward passes."""

_STARTS: dict[Objective, tuple[Callable[..., Clip], Loss]] = {
    "contrastive": (build, contrastive_loss),
    "bag of words": (predictive.bag_of_words, predictive.word_loss),
    "caption": (predictive.captioner, predictive.caption_loss),
}


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Test images and the names to choose from.

    Attributes:
        name: of the task.
        pixels: (N, 3, H, W) uint8.
        labels: (N,) int64 in [0, C).
        class_names: C labels.
        prompts: C bare names, cleaned: what all three objectives are asked with.
    """

    name: str
    pixels: Tensor
    labels: "np.ndarray[Any, np.dtype[np.int64]]"
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]


def read_eval_set(
    name: str, source: "Source", field: str, templates: Templates, preprocess: "Preprocess", *, most: int
) -> EvalSet:
    """Read test images once.

    Args:
        name: of the task.
        source: of labeled images; those without a label are left out.
        field: the column of the labels.
        templates: whose cleaned names are written; its names are classes also where no image has them.
        preprocess: of the model.
        most: images at most, the first ones.
    """
    labeled = (pair for pair in source.pairs(Counts()) if pair.fields.get(field))
    pairs = list(islice(labeled, most))
    texts = [str(pair.fields[field]).strip() for pair in pairs]
    names = tuple(sorted({*texts, *templates.names}))
    place = {name: number for number, name in enumerate(names)}
    pixels = np.stack([image_pixels(pair.image, preprocess) for pair in pairs])
    return EvalSet(
        name,
        torch.from_numpy(pixels).permute(0, 3, 1, 2),
        np.array([place[text] for text in texts]),
        names,
        tuple(templates.names.get(name, (name,))[0] for name in names),
    )


def hits_of(model: Model, eval_set: EvalSet) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return (N,) bool: which images a model names right among all classes, asked with bare names."""
    features, clip = features_of(model, eval_set), model.clip
    tokens = model.tokenize(eval_set.prompts)
    if isinstance(clip, predictive.BagOfWords):
        scores = predictive.word_scores(clip, features, tokens)
    elif isinstance(clip, predictive.Captioner):
        scores = predictive.caption_scores(clip, features, tokens)
    else:
        written = {
            name: (prompt,) for name, prompt in zip(eval_set.class_names, eval_set.prompts, strict=True)
        }
        names = Templates(BARE.name, BARE.templates, written)
        scores = (
            unit_length(features) @ torch.from_numpy(build_classifier(model, eval_set.class_names, names)).T
        )
    return score_ranks(scores.numpy(), eval_set.labels) < 1


def features_of(model: Model, eval_set: EvalSet) -> Tensor:
    """Return image_features (N, E) float32 of the test images."""
    parts = torch.split(eval_set.pixels, PICTURES_AT_ONCE)
    return torch.cat([model.encode_image(model.normalize_pixels(part)).float() for part in parts])


def embeds_of(model: Model, eval_set: EvalSet) -> Tensor:
    """Return image_embeds (N, E) float32 of unit length."""
    return unit_length(features_of(model, eval_set))


def new_model(
    objective: Objective,
    config: ClipConfig,
    tokenizer: "AnyTokenizer",
    preprocess: "Preprocess",
    *,
    seed: int,
) -> Model:
    """Build a model; models of one seed start with the same image tower, whatever their objective."""
    start, _ = _STARTS[objective]
    return Model(start(config, seed=seed), tokenizer, preprocess)


def learn(
    model: Model,
    objective: Objective,
    shards: "ShardSet",
    settings: TrainSettings,
    *,
    eval_sets: Sequence[EvalSet],
    watch: Sequence[int],
) -> list[dict[str, Any]]:
    """Train a model in place and examine it on the way.

    Args:
        model: see `new_model`.
        objective: decides the loss.
        shards: what to learn from.
        settings: the run; ends at its last step.
        eval_sets: what to ask.
        watch: pairs seen after which to ask; the end is always asked.

    Returns:
        One record per examination: `samples`, `hits` and `count` by set, `loss` (mean since the one before),
        `seconds` (of learning alone).
    """
    loader = Loader(
        shards, model.tokenizer, model.preprocess,
        LoaderSettings(settings.batch_size, workers=0, seed=settings.seed),
    )  # fmt: skip
    last = settings.last_step(loader.count)
    stepper = TrainStep(model, settings, _STARTS[objective][1], total_steps=last)
    due = {min(last, round(samples / settings.batch_size)) for samples in watch} | {last}
    records: list[dict[str, Any]] = []
    losses: list[float] = []
    seconds, begun = 0.0, time.monotonic()
    with Progress(f"learning by {objective}", total=last * settings.batch_size) as progress:
        for number, batch in enumerate(islice(loader.batches(), last)):
            losses.append(stepper.step(batch, number).loss)
            progress.advance(settings.batch_size, loss=losses[-1])
            if number + 1 not in due:
                continue
            seconds += time.monotonic() - begun
            model.clip.eval()
            hits = {eval_set.name: int(hits_of(model, eval_set).sum()) for eval_set in eval_sets}
            model.clip.train()
            records.append({
                "samples": batch.samples_seen, "hits": hits,
                "count": {eval_set.name: len(eval_set.labels) for eval_set in eval_sets},
                "loss": round(float(np.mean(losses)), 4), "seconds": round(seconds, 1),
            })  # fmt: skip
            progress.log(f"{objective}: {records[-1]}")
            losses, begun = [], time.monotonic()
    model.clip.eval()
    return records


def narrowed(config: ClipConfig, factor: float) -> ClipConfig:
    """Return an architecture whose two towers are that much as wide; the shared space stays.

    Raises:
        SettingsError: the architecture is not a ResNet beside a causal text tower.
    """
    vision, text = config.vision, config.text
    if not isinstance(vision, ResNetConfig) or not isinstance(text, TextConfig):
        raise SettingsError(
            "only a ResNet beside a causal text tower is made narrower here",
            where="model.preset",
            expected="such as resnet-micro-48",
        )
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(vision, width=round(vision.width * factor)),
        text=dataclasses.replace(text, width=round(text.width * factor)),
    )


def operations_per_pair(model: Model, batch: Batch) -> float:
    """Count the floating-point operations that learning from one pair takes (contrastive, both towers)."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    pixels, tokens = batch.pixels[:COUNTED_PAIRS], batch.tokens[:COUNTED_PAIRS]
    with torch.no_grad(), numerics("mkl"), counter:  # the counter does not know oneDNN's operators
        model.clip(model.normalize_pixels(pixels), tokens)
    return BACKWARD * counter.get_total_flops() / len(pixels)
