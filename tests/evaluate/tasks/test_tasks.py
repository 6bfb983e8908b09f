import csv
import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluate.conftest import evaluator

from diptych.core.errors import DataError, UnknownNameError
from diptych.core.records import Counts
from diptych.evaluate.prompts.sets import prompt_set
from diptych.evaluate.tasks.registry import Task, TaskRow, open_task, registry, task_rows
from diptych.models.formats.references import public_names


def _by_path(name: str) -> object:
    """Load a file beside this one: tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1].joinpath(f"{name}.py"))
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mini = _by_path("miniatures")
WITHOUT_ARCHIVE = {"svhn", "dmlab", "diabetic-retinopathy", "iwildcam", "camelyon17", "fmow", "dollar-street",
                   "geode"}  # fmt: skip
RETRIEVAL = {"flickr30k", "mscoco", "mscoco-2017", "xm3600"}
CHOICES = {"sugarcrepe", "winoground", "aro-relation", "aro-attribution"}  # in test_compositional


def read(task: Task) -> list[tuple[int, tuple[int, int, int]]]:
    """The first class and the mean color of every picture."""
    found = []
    for pair in task.pairs(Counts()):
        with Image.open(io.BytesIO(pair.image)) as image:
            mean = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(axis=0)
        found.append(
            (int(str(pair.fields["labels"]).split(",")[0]), tuple(np.rint(mean).astype(int).tolist()))
        )
    return found


def test_every_row_has_a_miniature() -> None:
    assert set(task_rows()) == set(mini.WRITERS) | WITHOUT_ARCHIVE | RETRIEVAL | CHOICES


@pytest.mark.parametrize("name", sorted(mini.WRITERS))
def test_a_row_reads_what_its_authors_publish(name: str, tmp_path: Path) -> None:
    if name in mini.NEEDS:
        pytest.importorskip(mini.NEEDS[name])
    told = mini.WRITERS[name](tmp_path)
    found = read(open_task(name, tmp_path))
    assert [label for label, _ in found] == [label for label, _ in told]
    for (_, color), (_, expected) in zip(found, told, strict=True):
        assert np.abs(np.subtract(color, expected)).max() <= 4  # JPEG and MPEG round


def test_the_suites_are_the_published_ones(shared_data: Path) -> None:
    rows, suites = task_rows(), registry().suites
    assert len(suites["paper27"]) == 27
    assert all(len(rows[name].zero_shot) == 9 for name in registry().suites["paper27"])
    with (shared_data / "text" / "published_openclip_results.csv").open() as file:
        columns = set(next(csv.reader(file))[5:])
    found = {rows[name].column for name in registry().suites["datacomp38"]}
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
    per_class = {"fgvc-aircraft", "oxford-pets", "caltech101", "flowers102"}
    for name in registry().suites["paper27"]:
        expected = special.get(name, "mean_per_class" if name in per_class else "accuracy")
        assert rows[name].metric == expected, name


@pytest.mark.parametrize("name", sorted(task_rows()))
def test_every_row_says_where_from_and_under_which_terms(name: str) -> None:
    row = task_rows()[name]
    assert row.url.startswith("http") and row.license and row.title and prompt_set(row.prompts)
    assert "test" in row.splits and set(row.items) <= set(row.splits) and row.items["test"] > 0
    assert row.layouts or row.mirror


def test_several_classes_and_doubtful_ones_are_told_apart(tmp_path: Path) -> None:
    mini.voc2007(tmp_path)
    first, second = open_task("voc2007", tmp_path).items()
    assert (first.labels, first.ignored) == ((11, 14), (8,))
    assert (second.labels, second.ignored) == ((18,), ())


def test_a_missing_or_damaged_picture_stays_in_the_task_and_is_wrong(
    tmp_path: Path, color_model: object
) -> None:
    for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        mini.put(tmp_path / f"{name}.png", color)
    mini.put(tmp_path / "broken.png", "no picture")
    mini.put(tmp_path / "list.txt", "red.png red\ngreen.png green\nbroken.png red\ngone.png green\n")
    task = own_task(tmp_path, ["red", "green"])
    outcome = evaluator(task, "label", templates=task.templates).run(color_model)
    metrics = {metric.metric: metric for metric in outcome.metrics()}
    assert (metrics["top1"].value, metrics["top1"].n, metrics["unreadable"].value) == (0.5, 4, 2)
    assert outcome.embedded.counts.dropped.total() == 2


def own_task(root: Path, names: Sequence[str]) -> Task:
    """A task of the user's own: a row and prompts from files of theirs."""
    from diptych.core.settings import from_mapping

    layout = {
        "kind": "list",
        "file": "list.txt",
        "pattern": r"(?P<image>\S+) (?P<label>\S+)",
        "image": "{image}",
    }
    row = from_mapping(TaskRow, {
        "title": "own", "metric": "accuracy", "splits": {"test": "test"}, "items": {}, "license": "",
        "url": "here", "layouts": [layout],
    })  # fmt: skip
    mini.put(
        root / "own.toml",
        f'source = "me"\nlicense = "CC0"\ntemplates = ["{{}}"]\nclass_names = {json.dumps(names)}',
    )
    return open_task("own", root, row=row, prompts=prompt_set(root / "own.toml"))


def test_equal_inputs_have_equal_digests(tmp_path: Path) -> None:
    mini.put(tmp_path / "a.png", mini.A)
    mini.put(tmp_path / "list.txt", "a.png red\n")
    first = own_task(tmp_path, ["red", "green"]).inputs()
    assert first == own_task(tmp_path, ["red", "green"]).inputs()
    mini.put(tmp_path / "list.txt", "a.png green\n")
    assert first != own_task(tmp_path, ["red", "green"]).inputs()


def test_a_class_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    mini.put(tmp_path / "list.txt", "a.png grene\n")
    with pytest.raises(UnknownNameError, match="did you mean 'green'"):
        list(own_task(tmp_path, ["red", "green"]).items())
    mini.put(tmp_path / "list.txt", "a.png 2\n")
    with pytest.raises(DataError, match="0 to 1"):
        list(own_task(tmp_path, ["red", "green"]).items())


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


def test_a_drawn_split_parts_the_pictures(tmp_path: Path) -> None:
    mini.caltech101(tmp_path)
    keys = [
        {item.key for item in open_task("caltech101", tmp_path, split=split).items()}
        for split in ("train", "test")
    ]
    assert [len(of_split) for of_split in keys] == [60, 2] and not keys[0] & keys[1]


def test_what_is_for_testing_is_not_for_training(tmp_path: Path) -> None:
    mini.birdsnap(tmp_path)
    assert [i.key for i in open_task("birdsnap", tmp_path, split="train").items()] == [
        "download/images/Acorn_Woodpecker/3.jpg"
    ]
    mini.kitti(tmp_path / "kitti")
    videos = [
        {
            item.fields["video"]
            for item in open_task("kitti-distance", tmp_path / "kitti", split=split).items()
        }
        for split in ("train", "test")
    ]
    assert len(videos[0]) == len(videos[1]) == 1 and not videos[0] & videos[1]


def test_a_part_of_imagenet_has_the_classes_that_are_there(tmp_path: Path) -> None:
    mini.WRITERS["imagenet-o"](tmp_path)
    assert open_task("imagenet-o", tmp_path).class_names == ("goldfish", "toilet paper")


def test_the_names_of_objectnet_come_with_the_data(tmp_path: Path) -> None:
    mini.objectnet(tmp_path)
    task = open_task("objectnet", tmp_path)
    assert task.class_names == ("alarm clock", "banana") and len(task.templates.templates) == 80
