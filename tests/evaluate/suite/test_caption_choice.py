"""SugarCrepe, Winoground and ARO: files in their authors' form, and scores that colors work out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluate.conftest import BLUE, GREEN, RED

from diptych.core.errors import DataError, IntegrityError
from diptych.core.records import Counts
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.suite import caption_choice as ours
from diptych.evaluate.suite.caption_choice import caption_choice
from diptych.evaluate.suite.features_cache import FeatureSettings
from diptych.evaluate.suite.plan import OpenedTask, TaskSpec, open_spec
from diptych.evaluate.suite.scoring import ProtocolResult, TaskRunner
from diptych.evaluate.tasks.readers.captions import AroReader
from diptych.evaluate.tasks.registry import TaskRow, open_task, task_rows


def paint(path: Path, *colors: tuple[int, int, int]) -> str:
    """An image of stripes, each 8 pixels wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(np.array([[*colors]] * 8, np.uint8), 8, axis=1)).save(path)
    return path.name


def score(name: str, root: Path, model, *, split: str = "test", row: TaskRow | None = None) -> ProtocolResult:
    """Score a data set as `diptych evaluate --suite` does."""
    spec = TaskSpec(name, task=name, split=split)
    if row is None:
        task = open_spec(spec, root.parent)
    else:
        source = open_task(name, root, row=row)
        protocols = ("caption_choice",)
        task = OpenedTask(spec, row.title, source, row.kind, row.metric, protocols, source.templates, ())
    model.digest = "c" * 64
    return caption_choice(TaskRunner(model, task, FeatureSettings(), cache=root.parent / "cache"))


def values(result: ProtocolResult) -> dict[str, float]:
    return {metric.metric: metric.value for metric in result.metrics}


def case(filename: str, caption: str, negative: str) -> dict[str, str]:
    return {"filename": filename, "caption": caption, "negative_caption": negative}


def test_sugarcrepe(tmp_path: Path, color_model) -> None:
    folder = tmp_path / "sugarcrepe"
    red, green = paint(folder / "val2017/r.png", RED), paint(folder / "val2017/g.png", GREEN)
    (folder / "val2017" / "broken.png").write_bytes(b"broken")
    rows = {"0": case(red, "red", "blue"), "1": case(green, "blue", "green")}
    (folder / "swap_obj.json").write_text(json.dumps(rows))
    missing = {
        str(n): case(name, "red", "blue") for n, name in enumerate(("broken.png", "gone.png"), start=3)
    }
    (folder / "add_att.json").write_text(json.dumps({"0": case(red, "red", "Red"), **missing}))
    (folder / "captions_val2017.json").write_text("{}")  # no category
    result = score("sugarcrepe", folder, color_model)
    # a tie, a broken and a missing image are misses
    assert result.arrays["hits"].tolist() == [False, False, False, True, False]
    assert values(result) == {
        "accuracy": 0.2, "mean_per_group": 0.25, "accuracy[add_att]": 0.0, "accuracy[swap_obj]": 0.5,
    }  # fmt: skip
    assert (result.metric.metric, result.metric.value) == ("mean_per_group", 0.25)
    assert score("sugarcrepe", folder, color_model, split="swap_obj").metric.value == 0.5


def test_winoground(tmp_path: Path, color_model) -> None:
    folder, rows = tmp_path / "winoground", []
    for number, colors in enumerate(((RED, BLUE), (RED, RED))):
        names = [f"ex_{number}_img_{n}" for n in (0, 1)]
        for name, color in zip(names, colors, strict=True):
            paint(folder / "data" / "images" / f"{name}.png", color)
        row = {"image_0": names[0], "image_1": names[1], "caption_0": "red", "caption_1": "blue"}
        rows.append({"id": number, **row, "collapsed_tag": ("Object", "Relation")[number]})
    (folder / "data" / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    result = score("winoground", folder, color_model)
    assert values(result) == {"text_score": 0.5, "image_score": 0.5, "group_score": 0.5}
    assert result.metric.metric == "group_score" and result.arrays["hits"].tolist() == [True, False]


def test_quartets_put_each_cosine_in_its_place() -> None:
    pairs = tuple({"pair": name} for name in "aabb")
    embedded = EmbeddedPairs(tuple("0123"), np.zeros((4, 2), np.float32), ((),) * 4, pairs, Counts())
    scores = np.array([[1.0, 2.0], [4.0, 3.0], [5.0, 6.0], [8.0, 7.0]])  # own caption, other caption
    assert ours.quadruples(scores, embedded).tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    with pytest.raises(DataError, match="pairs"):
        ours.quadruples(scores[:3], replace(embedded, fields=pairs[:3]))


def test_winoground_scores_equal_the_papers_conditions() -> None:
    for case in range(200):
        rng = np.random.default_rng(case)
        scores = rng.integers(0, 3, size=(int(rng.integers(1, 20)), 2, 2)).astype(float)
        if case % 3 == 0:
            scores[0, 0] = np.nan
        hits = ours.quadruple_hits(scores)
        for row, (s, text, image, group) in enumerate(zip(scores, *hits.values(), strict=True)):
            assert text == (s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]), row
            assert image == (s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]), row
            assert group == (text and image), row


def test_aro_cuts_to_the_box_and_counts_relations_alike(tmp_path: Path, color_model) -> None:
    folder = tmp_path / "aro-relation"
    box = {"bbox_y": 0, "bbox_w": 8, "bbox_h": 8, "image_path": paint(folder / "images" / "a.png", RED, BLUE)}
    rows = [
        {**box, "bbox_x": left, "true_caption": true, "false_caption": false, "relation_name": name}
        for left, true, false, name in (
            (0, "red", "blue", "on"),
            (8, "blue", "red", "on"),
            (8, "red", "blue", "under"),
        )
    ]
    (folder / "visual_genome_relation.json").write_text(json.dumps(rows))
    result = score("aro-relation", folder, color_model)
    assert result.arrays["hits"].tolist() == [True, True, False]
    assert (result.metric.metric, result.metric.value) == ("mean_per_group", 0.5)
    for row in rows:
        row["attributes"] = [row.pop("relation_name"), "red"]
    other = folder.rename(tmp_path / "aro-attribution")
    (other / "visual_genome_attribution.json").write_text(json.dumps(rows))
    assert values(score("aro-attribution", other, color_model))["accuracy[on_red]"] == 1.0


def test_aro_order_has_several_wrong_captions(tmp_path: Path, color_model) -> None:
    folder = tmp_path / "order"
    name = paint(folder / "b.png", BLUE)
    options = (["blue", "red", "green", "red green"], ["red", "blue"])
    rows = [{"image_path": name, "caption_options": captions} for captions in options]
    (folder / "order.json").write_text(json.dumps(rows))
    row = replace(task_rows()["aro-relation"], layouts=(AroReader("order.json", images="."),), items={})
    assert score("order", folder, color_model, row=row).arrays["hits"].tolist() == [True, False]


def test_damaged_cases_are_refused(tmp_path: Path) -> None:
    assert open_task("sugarcrepe", tmp_path) is None
    (tmp_path / "swap_obj.json").write_text('{"0": {"filename": "a.jpg"}}')
    with pytest.raises(IntegrityError, match=r"swap_obj[\s\S]*row 0: KeyError: 'caption'"):
        list(open_task("sugarcrepe", tmp_path).items())
    (tmp_path / "swap_obj.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        list(open_task("sugarcrepe", tmp_path).items())


def test_other_protocols_say_why_they_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "sugarcrepe").mkdir()
    (tmp_path / "sugarcrepe" / "swap_obj.json").write_text("{}")
    spec = TaskSpec("sugarcrepe", task="sugarcrepe", protocols=("zeroshot", "retrieval", "caption_choice"))
    opened = open_spec(spec, tmp_path)
    assert dict(opened.not_run).keys() == {"zeroshot", "retrieval"}
