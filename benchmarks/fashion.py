"""Train open_clip's model on the fashion photos for as long as ours trains, and score both alike.

    python benchmarks/fashion.py --peer-python PEERS/bin/python [--out FOLDER] [--recipe recipes/fashion.toml]
        [--minutes M] [--set train.samples=20480]... [--peer-workers 2] [--quick] [--json FILE]

Ours is `diptych train RECIPE`. Then the peer trains a model with towers of the same sizes on the same pairs:
the same token ids, batch size, peak learning rate, share of warm-up, AdamW constants and augmentation of the
images (squash, border, random crop, mirror, as torchvision transforms on Pillow images in torch's
DataLoader), bfloat16 as far as ours uses it; open_clip does not leave out words, so its titles stay whole.
Its cosine follows the clock, so it is a whole one however many steps fit. It gets the seconds that our
training took (--minutes gives it others). Its embeddings of the test photos, titles and prompts come back as
files and go through diptych's evaluation, so every metric is computed by the same code.

Reads: the recipe and its data. Writes: both runs under --out; JSON to standard output and to the file of
--json. The peers' interpreter (DIPTYCH_PEERS_PYTHON) needs open_clip 3.3, torchvision and pyarrow.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from contest import machine, missing, options_of, skip, write_result

from diptych.cli.recipe import Recipe, load_recipe
from diptych.cli.run import task_specs
from diptych.core.records import Counts, Metric
from diptych.core.settings import from_mapping, to_mapping
from diptych.data.sources.open import Columns, open_source
from diptych.data.tokenizers.clip import TokenCounts
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.suite.run import SourceEvaluator, source_evaluators
from diptych.models import checkpoint
from diptych.models.encode import Encoder
from diptych.models.model import Model
from diptych.train.settings import TrainSettings

RECIPE = Path(__file__).parents[1] / "recipes" / "fashion.toml"
PEER = Path(__file__).with_name("fashion_peer.py")
END = -1  # stands behind each number of a text, where the end token would


class EmbeddedTexts(Encoder):
    """Stands in for a model whose text embeddings were computed elsewhere; numbers the texts it is asked for.

    Args:
        embed_dim: width of the embeddings.
        places: text to row.
        embeds: (M, E) one row per text; None only collects texts and gives noise.
    """

    scale, bias, context_length = 100.0, 0.0, 77

    def __init__(self, embed_dim: int, places: dict[str, int], embeds: np.ndarray | None) -> None:
        text = SimpleNamespace(end_id=END)
        self.config = SimpleNamespace(embed_dim=embed_dim, text=text, logit_bias_init=None)
        self.tokenizer, self.counts = self, TokenCounts()
        self.places, self.embeds = places, embeds

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Return (B, 2): the text's row and an end."""
        return np.array([[self.places.setdefault(text, len(self.places)), END] for text in texts])

    def encode_batch(self, batch: np.ndarray, precision: str = "", *, output: str = "embeds") -> np.ndarray:
        """Return (B, E), unit length."""
        del precision, output
        if self.embeds is None:
            return np.random.default_rng(0).standard_normal((len(batch), self.config.embed_dim), np.float32)
        rows = self.embeds[batch[:, 0]]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def train_ours(options: argparse.Namespace, run: Path) -> None:
    """Run the recipe as a user does."""
    command = [
        str(Path(sys.executable).with_name("diptych")),
        "train",
        str(options.recipe),
        "--out",
        str(run),
    ]
    for assignment in options.set:
        command += ["--set", assignment]
    if (run / "manifest.json").exists():
        return
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"{' '.join(command)} failed")


def our_figures(run: Path) -> dict[str, Any]:
    """Read speed and metrics of our run; its seconds are those of the steps, waits for data included."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if "samples_per_second" in line]
    seen = [line["samples_seen"] for line in steps]
    pairs = [now - before for before, now in zip([0, *seen], seen, strict=False)]
    seconds = sum(count / line["samples_per_second"] for count, line in zip(pairs, steps, strict=True))
    return {
        "pairs_seen": seen[-1],
        "seconds": round(seconds, 1),
        "pairs_per_second": round(seen[-1] / seconds, 1),
        "last_loss": steps[-1]["loss"],
        "metrics": json.loads((run / "results.json").read_text("utf-8")),
    }


def empty_pairs(suite: SourceEvaluator) -> EmbeddedPairs:
    """Read a source's captions and columns; its images stay out."""
    counts = Counts()
    pairs = [(pair.key, pair.captions, pair.fields) for pair in suite.source.pairs(counts)]
    keys, captions, fields = zip(*pairs, strict=True)
    return EmbeddedPairs(keys, np.empty((len(pairs), 0), np.float32), captions, fields, counts)


def score(
    suite: SourceEvaluator, pairs: EmbeddedPairs, images: np.ndarray, model: EmbeddedTexts
) -> list[Metric]:
    """Score embeddings with the recipe's own tasks."""
    whole = EmbeddedPairs(pairs.keys, images, pairs.captions, pairs.fields, pairs.counts)
    stand_in: Any = model
    return suite.score(stand_in, whole).metrics()


def texts_of(suite: SourceEvaluator, pairs: EmbeddedPairs, embed_dim: int) -> list[str]:
    """List every title and prompt that the suite will ask for, by scoring noise."""
    collector = EmbeddedTexts(embed_dim, {}, None)
    noise = np.random.default_rng(0).standard_normal((len(pairs.keys), embed_dim), dtype=np.float32)
    score(suite, pairs, noise, collector)
    return list(collector.places)


def peer_task(
    recipe: Recipe, model: Model, options: argparse.Namespace, *, seconds: float, texts: list[str]
) -> dict[str, Any]:
    """Write tokens and settings for the peer; return the settings."""
    settings = from_mapping(TrainSettings, recipe.train, where="train")
    folder = options.out / "open_clip"
    folder.mkdir(parents=True, exist_ok=True)
    source = open_source(recipe.data.source, columns=Columns(recipe.data.image, recipe.data.caption))
    captions = [pair.captions[0] for pair in source.pairs(Counts())]
    np.save(folder / "train_tokens.npy", model.tokenizer.tokens(captions))
    np.save(folder / "text_tokens.npy", model.tokenizer.tokens(texts))
    constants = settings.adamw(model.config.vision.kind)
    steps = settings.total_steps(len(captions))
    return {
        "folder": str(folder),
        "train": recipe.data.source,
        "test": recipe.evaluate[0].source,
        "column": recipe.data.image,
        "config": to_mapping(model.config),
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_share": settings.warmup(steps) / steps,
        "adamw": to_mapping(constants),
        "precision": settings.resolved_precision(model.device),
        "seconds": seconds,
        "workers": options.peer_workers,
        "size": model.preprocess.size,
        "train_size": model.preprocess.train_size(),
        "train_pad": model.preprocess.train_pad,
        "flip": model.preprocess.horizontal_flip,
        "mean": model.preprocess.mean,
        "std": model.preprocess.std,
    }


def main() -> None:
    """Train both, score both, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", default=os.environ.get("DIPTYCH_PEERS_PYTHON"))
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-fashion"), help="of both runs")
    parser.add_argument("--minutes", type=float, help="of the peer's training; as long as ours by default")
    parser.add_argument("--set", action="append", default=[], help="a setting of our recipe, as in train")
    parser.add_argument("--peer-workers", type=int, default=2, help="the peer's loader processes")
    parser.add_argument("--json", help="file to write besides standard output")
    options = options_of(parser, minutes=0.2, set=["train.samples=2560", "train.warmup_steps=2"])
    recipe = load_recipe(options.recipe, options.set)
    reason = missing(options.peer_python, "open_clip", "torchvision", "pyarrow")
    absent = [ref for ref in (recipe.data.source, recipe.evaluate[0].source) if not Path(ref).is_file()]
    if reason := reason or (f"the recipe's data is not here: {absent[0]}" if absent else ""):
        write_result({"benchmark": "fashion", "skipped": skip("fashion", reason)}, options.json)
        return
    train_ours(options, options.out / "diptych")
    ours = our_figures(options.out / "diptych")
    model = checkpoint.load(options.out / "diptych" / "model")
    ours["parameters"] = sum(parameter.numel() for parameter in model.clip.parameters())
    (suite,) = source_evaluators(task_specs(recipe.evaluate))
    pairs = empty_pairs(suite)
    texts = texts_of(suite, pairs, model.config.embed_dim)
    seconds = options.minutes * 60 if options.minutes else ours["seconds"]
    task = peer_task(recipe, model, options, seconds=seconds, texts=texts)
    folder = Path(task["folder"])
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    subprocess.run([options.peer_python, str(PEER), str(folder / "task.json")], check=True)
    theirs = json.loads((folder / "figures.json").read_text("utf-8"))
    embeds = np.load(folder / "text_embeds.npy")
    stand_in = EmbeddedTexts(model.config.embed_dim, {text: row for row, text in enumerate(texts)}, embeds)
    found = score(suite, pairs, np.load(folder / "image_embeds.npy"), stand_in)
    theirs["metrics"] = [metric.as_dict() for metric in found]
    values = {(one["task"], one["metric"]): one["value"] for one in theirs["metrics"]}
    rows = {
        f"{one['task']}: {one['metric']}": [one["value"], values[one["task"], one["metric"]]]
        for one in ours["metrics"]
        if one["metric"] not in ("unlabelled", "unreadable")
    }
    write_result(
        {
            "benchmark": "fashion",
            "machine": machine(),
            "versions": {name: version(name) for name in ("diptych", "torch")},
            "recipe": to_mapping(recipe),
            "ours_faster_by": round(ours["pairs_per_second"] / theirs["pairs_per_second"], 3),
            "ours_and_theirs": rows,
            "diptych": ours,
            "open_clip": theirs,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
