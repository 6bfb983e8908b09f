import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluate import miniatures as mini
from tests.evaluate.conftest import GREEN, RED, evaluator

from diptych.core.errors import DataError, UnknownNameError
from diptych.core.records import Counts
from diptych.core.settings import from_mapping
from diptych.evaluate.prompts.sets import prompt_set
from diptych.evaluate.tasks.registry import Task, TaskRow, open_task, registry, task_rows
from diptych.models.formats.references import public_names

WITHOUT_ARCHIVE = {"svhn", "dmlab", "diabetic-retinopathy", "iwildcam", "camelyon17", "fmow", "dollar-street",
                   "geode"}  # fmt: skip
RETRIEVAL = {"flickr30k", "mscoco", "mscoco-2017", "xm3600"}
CHOICES = {"sugarcrepe", "winoground", "aro-relation", "aro-attribution"}  # in suite/test_caption_choice


def test_every_row_has_a_miniature() -> None:
    assert set(task_rows()) == set(mini.MINIATURES) | WITHOUT_ARCHIVE | RETRIEVAL | CHOICES


@pytest.mark.parametrize("name", sorted(mini.MINIATURES))
def test_a_row_reads_what_its_authors_publish(name: str, tmp_path: Path) -> None:
    if name in mini.NEEDS:
        pytest.importorskip(mini.NEEDS[name])
    expected = mini.write(name, tmp_path)
    pairs = list(open_task(name, tmp_path).pairs(Counts()))
    assert [int(str(p.fields["labels"]).split(",")[0]) for p in pairs] == [label for label, _ in expected]
    for pair, (_, color) in zip(pairs, expected, strict=True):
        mean = np.asarray(Image.open(io.BytesIO(pair.image)).convert("RGB")).reshape(-1, 3).mean(axis=0)
        assert np.abs(mean - color).max() <= 4.5  # JPEG and MPEG round


def test_the_suites_are_the_published_ones(shared_data: Path) -> None:
    rows, suites = task_rows(), registry().suites
    assert len(suites["paper27"]) == 27
    assert all(len(rows[name].zero_shot) == 9 for name in suites["paper27"])
    with (shared_data / "text" / "published_openclip_results.csv").open() as file:
        columns = set(next(csv.reader(file))[5:])
    found = {rows[name].column for name in suites["datacomp38"]}
    assert columns - found == {"WinoGAViL"} and found <= columns
    assert all(set(names) <= set(rows) for names in suites.values())


def test_the_rows_state_the_numbers_of_the_paper() -> None:
    rows = task_rows()
    assert set(registry().models) <= set(public_names())
    assert rows["mnist"].published("ViT-B-32/openai") == 51.9
    assert rows["imagenet"].published("ViT-L-14-336/openai") == 76.2
    assert rows["imagenet-a"].published("ViT-L-14-336/openai") == 77.2
    assert rows["imagenet"].published("ViT-B-32/laion2b") is None
    assert rows["sun397"].probe["ViT-B-32/openai"] == 76.6
    special = {"voc2007": "map_11pt", "hateful-memes": "roc_auc", "kinetics700": "mean_top1_top5"}
    per_class = dict.fromkeys(("fgvc-aircraft", "oxford-pets", "caltech101", "flowers102"), "mean_per_class")
    paper = registry().suites["paper27"]
    assert {name: rows[name].metric for name in paper} == dict.fromkeys(
        paper, "accuracy"
    ) | special | per_class


@pytest.mark.parametrize("name", sorted(task_rows()))
def test_every_row_says_where_from_and_under_which_terms(name: str) -> None:
    row = task_rows()[name]
    assert row.url.startswith("http") and row.license and row.title and prompt_set(row.prompts)
    assert "test" in row.splits and set(row.items) <= set(row.splits) and row.items["test"] > 0
    assert row.layouts or row.mirror


def test_several_classes_and_doubtful_ones_are_told_apart(tmp_path: Path) -> None:
    mini.write("voc2007", tmp_path)
    first, second = open_task("voc2007", tmp_path).items()
    assert (first.labels, first.ignored) == ((11, 14), (8,))
    assert (second.labels, second.ignored) == ((18,), ())


def own_task(root: Path, lines: str, names: Sequence[str] = ("red", "green")) -> Task:
    """A task of the user's own: a row and prompts from files of theirs."""
    pattern = r"(?P<image>\S+) (?P<label>\S+)"
    layout = {"kind": "list", "file": "list.txt", "pattern": pattern, "image": "{image}"}
    row = from_mapping(TaskRow, {
        "title": "own", "metric": "accuracy", "splits": {"test": "test"}, "items": {}, "license": "",
        "url": "here", "layouts": [layout],
    })  # fmt: skip
    prompts = f'source = "me"\nlicense = "CC0"\ntemplates = ["{{}}"]\nclass_names = {json.dumps(names)}'
    mini.put(root / "own.toml", prompts)
    mini.put(root / "list.txt", lines)
    return open_task("own", root, row=row, prompts=prompt_set(root / "own.toml"))


def test_a_missing_or_damaged_image_stays_in_the_task_and_is_wrong(
    tmp_path: Path, color_model: object
) -> None:
    for name, content in (("red", RED), ("green", GREEN), ("broken", "no image")):
        mini.put(tmp_path / f"{name}.png", content)
    task = own_task(tmp_path, "red.png red\ngreen.png green\nbroken.png red\ngone.png green\n")
    outcome = evaluator(task, "label", templates=task.templates).run(color_model)
    metrics = {metric.metric: metric for metric in outcome.metrics()}
    assert (metrics["top1"].value, metrics["top1"].n, metrics["unreadable"].value) == (0.5, 4, 2)
    assert outcome.embedded.counts.dropped.total() == 2


def test_equal_inputs_have_equal_digests(tmp_path: Path) -> None:
    mini.put(tmp_path / "a.png", mini.A)
    first = own_task(tmp_path, "a.png red\n").inputs()
    assert first == own_task(tmp_path, "a.png red\n").inputs()
    assert first != own_task(tmp_path, "a.png green\n").inputs()


def test_a_class_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'green'"):
        list(own_task(tmp_path, "a.png grene\n").items())
    with pytest.raises(DataError, match="0 to 1"):
        list(own_task(tmp_path, "a.png 2\n").items())


def test_a_set_that_is_not_there_is_none_and_unknown_names_are_refused(tmp_path: Path) -> None:
    assert open_task("food101", tmp_path) is open_task("food101", tmp_path / "none") is None
    with pytest.raises(UnknownNameError, match="did you mean 'food101'"):
        open_task("food10", tmp_path)
    with pytest.raises(UnknownNameError, match="unknown split"):
        open_task("food101", tmp_path, split="val")


def test_half_a_data_set_is_no_task(tmp_path: Path) -> None:
    """With fewer classes the task would be easier and nobody would notice."""
    mini.put(tmp_path / "val/n01440764/a.jpg", mini.A)
    with pytest.raises(DataError, match="found 1 folders of classes, expected 1000"):
        list(open_task("imagenet", tmp_path).items())


def test_what_is_for_testing_is_not_for_training(tmp_path: Path) -> None:
    def items(name: str) -> list[list]:
        mini.write(name, tmp_path / name)
        return [list(open_task(name, tmp_path / name, split=split).items()) for split in ("train", "test")]

    drawn = [{item.key for item in of_split} for of_split in items("caltech101")]
    assert [len(keys) for keys in drawn] == [60, 2] and not drawn[0] & drawn[1]
    train, _ = items("birdsnap")
    assert [item.key for item in train] == ["download/images/Acorn_Woodpecker/3.jpg"]
    videos = [{item.fields["video"] for item in of_split} for of_split in items("kitti-distance")]
    assert len(videos[0]) == len(videos[1]) == 1 and videos[0] != videos[1]


def test_classes_come_with_the_data_where_they_are_a_part_of_ours(tmp_path: Path) -> None:
    mini.write("imagenet-o", tmp_path / "o")
    assert open_task("imagenet-o", tmp_path / "o").class_names == ("goldfish", "toilet paper")
    mini.write("objectnet", tmp_path / "n")
    task = open_task("objectnet", tmp_path / "n")
    assert task.class_names == ("alarm clock", "banana") and len(task.templates.templates) == 80
