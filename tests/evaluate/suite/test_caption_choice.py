"""SugarCrepe, Winoground and ARO: files in their authors' form, and scores that colors work out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DataError, IntegrityError
from diptych.core.records import Counts
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.suite import caption_choice as ours
from diptych.evaluate.suite.caption_choice import caption_choice
from diptych.evaluate.suite.features_cache import FeatureSettings
from diptych.evaluate.suite.plan import OpenedTask, TaskSpec, open_spec
from diptych.evaluate.suite.scoring import ProtocolResult, TaskRunner
from diptych.evaluate.tasks.readers import Example
from diptych.evaluate.tasks.readers.captions import AroReader
from diptych.evaluate.tasks.registry import TaskRow, open_task, task_rows

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(path: Path, *colors: tuple[int, int, int]) -> str:
    """A picture of stripes, each 8 pixels wide."""
    image = Image.new("RGB", (8 * len(colors), 8))
    for place, color in enumerate(colors):
        image.paste(color, (8 * place, 0, 8 * place + 8, 8))
    image.save(path)
    return path.name


def asked(name: str, root: Path, model, *, split: str = "test", row: TaskRow | None = None) -> ProtocolResult:
    """Score a data set as `diptych evaluate --suite` does."""
    spec = TaskSpec(name, task=name, split=split)
    if row is None:
        task = open_spec(spec, root.parent)
    else:
        source = open_task(name, root, row=row)
        asked = ("caption_choice",)
        task = OpenedTask(spec, row.title, source, row.kind, row.metric, asked, source.templates, ())
    model.digest = "c" * 64
    return caption_choice(TaskRunner(model, task, FeatureSettings(), cache=root.parent / "cache"))


def values(answers: ProtocolResult) -> dict[str, float]:
    return {metric.metric: metric.value for metric in answers.metrics}


def test_sugarcrepe(tmp_path: Path, color_model) -> None:
    folder = tmp_path / "sugarcrepe"
    images = folder / "val2017"
    images.mkdir(parents=True)
    red, green = paint(images / "r.png", RED), paint(images / "g.png", GREEN)
    (images / "broken.png").write_bytes(b"broken")
    rows = {
        "0": {"filename": red, "caption": "red", "negative_caption": "blue"},
        "1": {"filename": green, "caption": "blue", "negative_caption": "green"},
    }
    (folder / "swap_obj.json").write_text(json.dumps(rows))
    ties = {
        "0": {"filename": red, "caption": "red", "negative_caption": "Red"},
        "3": {"filename": "broken.png", "caption": "red", "negative_caption": "blue"},
        "4": {"filename": "missing.png", "caption": "red", "negative_caption": "blue"},
    }
    (folder / "add_att.json").write_text(json.dumps(ties))
    (folder / "captions_val2017.json").write_text("{}")  # no category
    found = asked("sugarcrepe", folder, color_model)
    # a tie, a broken and a missing picture are misses
    assert found.arrays["hits"].tolist() == [False, False, False, True, False]
    assert values(found) == {
        "accuracy": 0.2, "mean_per_group": 0.25, "accuracy[add_att]": 0.0, "accuracy[swap_obj]": 0.5,
    }  # fmt: skip
    assert (found.metric.metric, found.metric.value) == ("mean_per_group", 0.25)
    assert asked("sugarcrepe", folder, color_model, split="swap_obj").metric.value == 0.5


def test_winoground(tmp_path: Path, color_model) -> None:
    folder = tmp_path / "winoground"
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    for name, color in (("ex_0_img_0", RED), ("ex_0_img_1", BLUE), ("ex_1_img_0", RED), ("ex_1_img_1", RED)):
        paint(images / f"{name}.png", color)
    rows = [
        {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "red", "caption_1": "blue",
         "collapsed_tag": "Object"},
        {"id": 1, "image_0": "ex_1_img_0", "image_1": "ex_1_img_1", "caption_0": "red", "caption_1": "blue",
         "collapsed_tag": "Relation"},
    ]  # fmt: skip
    (folder / "data" / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = asked("winoground", folder, color_model)
    assert values(found) == {"text_score": 0.5, "image_score": 0.5, "group_score": 0.5}
    assert found.metric.metric == "group_score" and found.arrays["hits"].tolist() == [True, False]


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
    (folder / "images").mkdir(parents=True)
    two = paint(folder / "images" / "two.jpg.png", RED, BLUE)
    box = {"bbox_y": 0, "bbox_w": 8, "bbox_h": 8, "image_path": two}
    rows = [
        {**box, "bbox_x": 0, "true_caption": "red", "false_caption": "blue", "relation_name": "on"},
        {**box, "bbox_x": 8, "true_caption": "blue", "false_caption": "red", "relation_name": "on"},
        {**box, "bbox_x": 8, "true_caption": "red", "false_caption": "blue", "relation_name": "under"},
    ]
    (folder / "visual_genome_relation.json").write_text(json.dumps(rows))
    found = asked("aro-relation", folder, color_model)
    assert found.arrays["hits"].tolist() == [True, True, False]
    assert (found.metric.metric, found.metric.value) == ("mean_per_group", 0.5)
    for row in rows:
        row["attributes"] = [row.pop("relation_name"), "red"]
    other = folder.rename(tmp_path / "aro-attribution")
    (other / "visual_genome_attribution.json").write_text(json.dumps(rows))
    assert values(asked("aro-attribution", other, color_model))["accuracy[on_red]"] == 1.0


def test_aro_order_has_several_wrong_captions(tmp_path: Path, color_model) -> None:
    folder = tmp_path / "order"
    folder.mkdir()
    name = paint(folder / "b.png", BLUE)
    rows = [
        {"image_path": name, "caption_options": ["blue", "red", "green", "red green"]},
        {"image_path": name, "caption_options": ["red", "blue"]},
    ]
    (folder / "order.json").write_text(json.dumps(rows))
    row = replace(task_rows()["aro-relation"], layouts=(AroReader("order.json", images="."),), items={})
    found = asked("order", folder, color_model, row=row)
    assert found.arrays["hits"].tolist() == [True, False]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    def read() -> list[Example]:
        return list(open_task("sugarcrepe", tmp_path).items())

    assert open_task("sugarcrepe", tmp_path) is None
    (tmp_path / "swap_obj.json").write_text('{"0": {"filename": "a.jpg"}}')
    with pytest.raises(IntegrityError, match=r"swap_obj[\s\S]*row 0: KeyError: 'caption'"):
        read()
    (tmp_path / "swap_obj.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        read()


def test_other_protocols_say_why_they_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "sugarcrepe").mkdir()
    (tmp_path / "sugarcrepe" / "swap_obj.json").write_text("{}")
    spec = TaskSpec("sugarcrepe", task="sugarcrepe", protocols=("zeroshot", "retrieval", "caption_choice"))
    opened = open_spec(spec, tmp_path)
    assert dict(opened.not_run).keys() == {"zeroshot", "retrieval"}
