"""Results in CLIP_benchmark's and MTEB's files carry their names and their numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from tests.evaluate import miniatures
from tests.evaluate.conftest import ColorModel

from diptych.evaluate.suite.plan import OpenedTask, TaskSpec, load_plan, open_spec
from diptych.evaluate.suite.results import as_clip_benchmark, as_mteb, write_formats
from diptych.evaluate.suite.run import SuiteSettings, run_suite
from diptych.evaluate.tasks.registry import task_rows


class Shares(ColorModel):
    """The model of colors with probabilities that turn the order of images around."""

    digest = "c" * 64

    def encode_batch(self, batch: np.ndarray, *words: str, **options: str) -> np.ndarray:
        if batch.ndim != 2:
            return super().encode_batch(batch, *words, **options)
        return self._rows(np.stack([np.random.default_rng(n).random(3) for n in batch[:, 0]]))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return -logits


def result(protocols: dict[str, dict[str, float]], classes: int = 10, images: int = 10_000) -> dict[str, Any]:
    """What a task's file says, as far as other formats need it."""
    told = {}
    for name, values in protocols.items():
        metrics = [{"metric": metric, "value": value} for metric, value in values.items()]
        told[name] = {**metrics[0], "metrics": metrics}
    return {
        "task": "mine", "protocols": told, "class_names": ["a"] * classes, "items": {"pictures": images},
        "model": {"name": "runs/mine"}, "data": "d" * 64, "code": "diptych 1",
    }  # fmt: skip


def opened(name: str, root: Path) -> OpenedTask:
    miniatures.write(name, root / name)
    found = open_spec(TaskSpec("mine", task=name), root)
    assert isinstance(found, OpenedTask)
    return found


def test_clip_benchmarks_files_have_its_names() -> None:
    recall = {"text_to_image_recall@1": 0.5, "image_to_text_recall@5": 0.25}
    told = result({"retrieval": recall, "probe": {"top1": 0.75, "top5": 1.0}}, classes=3)
    theirs = as_clip_benchmark(told, "retrieval")
    assert (theirs["dataset"], theirs["task"], theirs["model"]) == ("mine", "zeroshot_retrieval", "runs")
    assert theirs["metrics"] == {"image_retrieval_recall@1": 0.5, "text_retrieval_recall@5": 0.25}
    # Of fewer than five classes they have no acc5.
    assert as_clip_benchmark(told, "probe")["metrics"] == {"lp_acc1": 0.75, "lp_acc5": None}


def test_voc_has_clip_benchmarks_average_precision_beside_the_papers(tmp_path: Path) -> None:
    miniatures.write("voc2007", tmp_path / "voc2007")
    model, settings = Shares(), SuiteSettings(tmp_path, tmp_path / "out")
    outcome = run_suite(model, load_plan("voc2007"), settings, name="colors")
    write_formats(tmp_path / "out", outcome.results, outcome.opened, "clip_benchmark")
    written = json.loads((tmp_path / "out/clip_benchmark/voc2007_zeroshot.json").read_text())["metrics"]
    answers = outcome.answers(0)
    embeds, marks = np.load(next(tmp_path.rglob("rows.npy"))), answers["marks"]
    classifier = np.load(
        max((tmp_path / "out/cache/classifiers").glob("*.npy"), key=lambda p: p.stat().st_mtime_ns)
    )
    cosines = embeds @ classifier.T
    shown = (marks >= 0).any(axis=0)
    theirs = [average_precision_score(marks[:, c] >= 0, cosines[:, c]) for c in np.flatnonzero(shown)]
    assert written["mean_average_precision"] == pytest.approx(sum(theirs) / 20)
    # Two images and one positive a class: found first by one order, it is last by the other.
    alone = [c for c in range(20) if (marks[:, c] > 0).any() and (marks[:, c] != 0).all()]
    turned = [1.5 - average_precision_score(marks[:, c] > 0, cosines[:, c]) for c in alone]
    assert len(alone) == 3 and written["map_11pt"] == pytest.approx(np.mean(turned))


def test_mteb_gets_its_own_task_its_split_and_its_main_score(tmp_path: Path) -> None:
    told = result({"zeroshot": {"accuracy": 0.5, "top1": 0.5, "top5": 0.75}}, images=25_250)
    written = as_mteb(told, opened("food101", tmp_path))
    assert written["task_name"] == "Food101ZeroShot" and written["mteb_version"] is None
    ((split, (scores,)),) = written["scores"].items()
    assert split == "validation" and scores["main_score"] == scores["accuracy"] == 0.5
    assert scores["hf_subset"] == "default" and scores["languages"] == ["eng-Latn"]


@pytest.mark.parametrize(
    ("name", "protocol", "images", "told"),
    [
        ("food101", "zeroshot", 25_249, "Food101ZeroShot has 25250 images, these are 25249"),
        ("food101", "probe", 25_250, "Food101ZeroShot is zero-shot classification"),
        ("voc2007", "zeroshot", 4_952, "it has no zero-shot task of this data set"),
    ],
)
def test_what_is_no_task_of_mtebs_is_told(
    name: str, protocol: str, images: int, told: str, tmp_path: Path
) -> None:
    found = result({protocol: {"top1": 0.5}}, images=images)
    (line,) = write_formats(tmp_path, [found], [opened(name, tmp_path)], "mteb")
    assert line == f"mine: no file for mteb: {told}" and not (tmp_path / "mteb").exists()


def test_names_of_mteb_are_its_own() -> None:
    """As `mteb.get_task` knows them in version 2.26."""
    known = {name: row.mteb.name for name, row in task_rows().items() if row.mteb is not None}
    assert known["clevr-distance"] == "CLEVRZeroShot" and known["rendered-sst2"] == "RenderedSST2"
    assert known["imagenet"] == "Imagenet1kZeroShot" and known["eurosat"] == "EuroSATZeroShot"
    assert len(set(known.values())) == len(known) == 22
