"""SugarCrepe, Winoground and ARO: files in their authors' form, and scores that colours work out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DataError
from diptych.evaluate import compositional as ours

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(path: Path, *colours: tuple[int, int, int]) -> str:
    """A picture of stripes, each 8 pixels wide."""
    image = Image.new("RGB", (8 * len(colours), 8))
    for place, colour in enumerate(colours):
        image.paste(colour, (8 * place, 0, 8 * place + 8, 8))
    image.save(path)
    return path.name


def test_sugarcrepe(tmp_path: Path, colour_model) -> None:
    images, folder = tmp_path / "val2017", tmp_path / "data"
    images.mkdir()
    folder.mkdir()
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
    }
    (folder / "add_att.json").write_text(json.dumps(ties))
    choices = ours.read_sugarcrepe(folder, images)
    hits = ours.choice_hits(ours.score_choices(colour_model, choices))
    assert [(choice.group, choice.key) for choice in choices] == [
        ("add_att", "0"), ("add_att", "3"), ("swap_obj", "0"), ("swap_obj", "1"),
    ]  # fmt: skip
    assert hits.tolist() == [False, False, True, False]  # a tie and a broken picture are misses
    found = {metric.metric: metric.value for metric in ours.choice_metrics(choices, hits, task="t")}
    assert found == {
        "accuracy": 0.25, "mean_per_group": 0.25, "accuracy[add_att]": 0.0, "accuracy[swap_obj]": 0.5,
    }  # fmt: skip


def test_winoground(tmp_path: Path, colour_model) -> None:
    for name, colour in (("ex_0_img_0", RED), ("ex_0_img_1", BLUE), ("ex_1_img_0", RED), ("ex_1_img_1", RED)):
        paint(tmp_path / f"{name}.png", colour)
    rows = [
        {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "red", "caption_1": "blue",
         "collapsed_tag": "Object"},
        {"id": 1, "image_0": "ex_1_img_0", "image_1": "ex_1_img_1", "caption_0": "red", "caption_1": "blue",
         "collapsed_tag": "Relation"},
    ]  # fmt: skip
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    quartets = ours.read_winoground(tmp_path / "examples.jsonl", tmp_path)
    assert [(quartet.key, quartet.tag) for quartet in quartets] == [("0", "Object"), ("1", "Relation")]
    hits = ours.quartet_hits(ours.score_quartets(colour_model, quartets))
    assert {name: found.tolist() for name, found in hits.items()} == {
        "text": [True, False], "image": [True, False], "group": [True, False],
    }  # fmt: skip
    assert [metric.value for metric in ours.quartet_metrics(hits, task="t")] == [0.5, 0.5, 0.5]


def test_winoground_scores_equal_the_papers_conditions() -> None:
    for case in range(200):
        rng = np.random.default_rng(case)
        scores = rng.integers(0, 3, size=(int(rng.integers(1, 20)), 2, 2)).astype(float)
        if case % 3 == 0:
            scores[0, 0] = np.nan
        hits = ours.quartet_hits(scores)
        for row, (s, text, image, group) in enumerate(zip(scores, *hits.values(), strict=True)):
            assert text == (s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]), row
            assert image == (s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]), row
            assert group == (text and image), row


def test_aro_cuts_to_the_box_and_counts_relations_alike(tmp_path: Path, colour_model) -> None:
    two = paint(tmp_path / "two.jpg.png", RED, BLUE)
    box = {"bbox_y": 0, "bbox_w": 8, "bbox_h": 8, "image_path": two}
    rows = [
        {**box, "bbox_x": 0, "true_caption": "red", "false_caption": "blue", "relation_name": "on"},
        {**box, "bbox_x": 8, "true_caption": "blue", "false_caption": "red", "relation_name": "on"},
        {**box, "bbox_x": 8, "true_caption": "red", "false_caption": "blue", "relation_name": "under"},
    ]
    file = tmp_path / "visual_genome_relation.json"
    file.write_text(json.dumps(rows))
    choices = ours.read_aro(file, tmp_path)
    hits = ours.choice_hits(ours.score_choices(colour_model, choices))
    assert hits.tolist() == [True, True, False]
    metrics = {metric.metric: metric.value for metric in ours.choice_metrics(choices, hits, task="t")}
    assert metrics["mean_per_group"] == 0.5
    for row in rows:
        row["attributes"] = [row.pop("relation_name"), "red"]
    file.write_text(json.dumps(rows))
    assert [choice.group for choice in ours.read_aro(file, tmp_path)] == ["on_red", "on_red", "under_red"]


def test_aro_order_has_several_wrong_captions(tmp_path: Path, colour_model) -> None:
    name = paint(tmp_path / "b.png", BLUE)
    rows = [
        {"image_path": name, "caption_options": ["blue", "red", "green", "red green"]},
        {"image_path": name, "caption_options": ["red", "blue"]},
    ]
    (tmp_path / "order.json").write_text(json.dumps(rows))
    choices = ours.read_aro(tmp_path / "order.json", tmp_path)
    assert ours.choice_hits(ours.score_choices(colour_model, choices)).tolist() == [True, False]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SugarCrepe"):
        ours.read_sugarcrepe(tmp_path, tmp_path)
    (tmp_path / "swap_obj.json").write_text('{"0": {"filename": "a.jpg"}}')
    with pytest.raises(DataError, match="negative_caption"):
        ours.read_sugarcrepe(tmp_path, tmp_path)
    (tmp_path / "swap_obj.json").write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        ours.read_sugarcrepe(tmp_path, tmp_path)
