"""The experiments on the paper's claims, at toy size: complete, kept, drawn, and read right."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.cli.recipe import load_recipe_as
from diptych.core.errors import DataError, SettingsError, UnknownNameError
from diptych.core.records import Counts
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.metrics.classification import label_ranks
from diptych.evaluate.metrics.intervals import clopper_pearson
from diptych.models.towers.presets import preset
from experiments.claims.__main__ import main
from experiments.claims.figures import figures_of, table_of
from experiments.claims.measure import EXPERIMENTS, _ratios, rows_by_class
from experiments.claims.recipe import ClaimsRecipe, ShotsPart
from experiments.claims.run import ExperimentContext, run_claims
from experiments.claims.training import hits_of, narrowed

RECIPE = """
[data]
source = "scenes:train?count=96&seed=1&size=48"
workers = 0
[tokenizer]
size = 600
context_length = 32
[model]
preset = "resnet-micro-48"
[preprocess]
train_resize = 48
[train]
samples = 64
batch_size = 16
warmup_steps = 1
precision = "float32"
[[evaluate]]
name = "unseen"
source = "scenes:unseen?count=12&seed=2"
task = "zeroshot"
labels = "label"
[claims]
samples = 48
factor = 0.25
watch = [16, 32]
scaling = [[0.25, 32], [0.25, 48], [0.5, 32]]
examined = 10
templates = ["{}", "a {}"]
[claims.shots]
train = "scenes:unseen?count=144&seed=5"
test = "scenes:unseen?count=36&seed=6"
shots = [1, 2]
validation = 1
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClaimsRecipe, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("claims")
    path = folder / "toy.toml"
    path.write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe_as(ClaimsRecipe, path)
    return folder / "out", recipe, run_claims(recipe, folder / "out")


def test_every_experiment_leaves_its_results_and_is_not_trained_again(
    done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recipe, results = done
    assert set(results) == set(EXPERIMENTS)
    page = (folder / "claims.md").read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        kept = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert table_of(name, kept) in page
        for file, text in figures_of(name, kept).items():
            ET.fromstring(text)
            assert (folder / file).read_text(encoding="utf-8") == text
    monkeypatch.setattr("experiments.claims.run.learn", None)
    again = run_claims(recipe, folder, only=["efficiency"])
    assert json.dumps(again["efficiency"]) == json.dumps(json.loads(json.dumps(results["efficiency"])))


def test_the_curve_has_a_point_at_every_watch_and_at_the_end(done: Any) -> None:
    curves = done[2]["efficiency"]["eval_sets"]["unseen"]
    assert list(curves) == ["contrastive", "bag of words", "caption"]
    for points in curves.values():
        assert [point["samples"] for point in points] == [16, 32, 48]
        assert {point["count"] for point in points} == {10}


def test_the_learner_that_ends_ahead_is_compared_at_the_level_of_the_other() -> None:
    def curve(*hits: int) -> list[dict[str, Any]]:
        return [
            {"samples": 100 * place, "hits": n, "value": n / 1000, "ci95": clopper_pearson(n, 1000)}
            for place, n in enumerate(hits, start=1)
        ]

    first, close, none = _ratios({"a": curve(10, 50, 90, 100), "b": curve(100, 200, 300, 400), "c": curve(0)})
    assert (first["fast"], first["slow"], first["ratio"], first["apart_at_end"]) == ("b", "a", 4.0, True)
    assert (close["fast"], close["ratio"]) == ("a", None)
    assert (none["fast"], none["slow"]) == ("b", "c")


def test_a_kept_model_gives_the_hits_that_its_curve_ends_with(done: Any) -> None:
    folder, recipe, results = done
    context = ExperimentContext(recipe, folder)
    model = context.best()
    (eval_set,) = context.eval_sets(model)
    hits = hits_of(model, eval_set)
    assert int(hits.sum()) == results["scaling"]["eval_sets"]["unseen"]["points"][-1]["hits"]
    with torch.inference_mode():
        features = model.encode_image(model.normalize_pixels(eval_set.pixels), normalize=True).numpy()
    texts = model.encode_text(model.tokenize(eval_set.prompts), normalize=True).numpy()
    np.testing.assert_array_equal(hits, label_ranks(features, eval_set.labels, texts) < 1)


def test_compute_gains_and_shots_are_what_their_names_say(done: Any) -> None:
    small, longer, wide = done[2]["scaling"]["compute"]
    assert longer == pytest.approx(1.5 * small) and wide > 2 * small
    prompts = done[2]["prompts"]["eval_sets"]["unseen"]
    values = {row["name"]: row["value"] for row in prompts["rows"]}
    assert list(values) == ["bare names", "a photo of a {}.", "a {}", "ensemble of 2"]
    for gain in prompts["gains"]:
        assert gain["value"] == pytest.approx(values[gain["of"]] - values[gain["over"]])
    shots = done[2]["shots"]
    assert shots["classes"] == 36
    assert [point["shots"] for point in shots["probes"]] == [1, 2]
    assert {point["count"] for point in shots["probes"]} == {36}


def test_validation_comes_before_the_shots_and_short_classes_are_left_out() -> None:
    labels = ["a", "b", "a", "a", "b", "c", "b", "a", "b", "", "b"]
    embeds = np.ones((len(labels), 2), dtype=np.float32)
    embeds[1] = np.nan
    train = EmbeddedPairs((), embeds, (), tuple({"label": text or None} for text in labels), Counts())
    rows = rows_by_class(train, "label", ShotsPart("t", "t", shots=(1, 2), validation=1))
    assert rows == {"a": [0, 2, 3], "b": [4, 6, 8]}
    with pytest.raises(DataError, match="too few"):
        rows_by_class(train, "label", ShotsPart("t", "t", shots=(4,), validation=1))


def test_the_script_prints_what_it_measured_and_refuses_what_it_does_not_know(
    done: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recipe, results = done
    main([str(folder), "--recipe", str(folder.parent / "toy.toml"), "--only", "scaling"])
    assert json.loads(capsys.readouterr().out)["scaling"]["compute"] == results["scaling"]["compute"]
    with pytest.raises(UnknownNameError, match="efficiency"):
        run_claims(recipe, folder, only=["eficiency"])
    with pytest.raises(SettingsError, match="ResNet"):
        narrowed(preset("ViT-B-32"), 0.5)
