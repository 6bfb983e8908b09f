"""WebDataset folders as CLIP_benchmark and DataComp lay them out."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import DataError, IntegrityError
from diptych.evaluate.prompts.sets import prompt_set
from diptych.evaluate.suite.plan import TaskSpec, open_spec
from diptych.evaluate.tasks.readers.webdataset import WebDatasetReader
from diptych.evaluate.tasks.registry import Task, open_task


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def npy(values: list[float]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def test_tars_are_read_by_number_with_their_labels(tmp_path: Path) -> None:
    for number, name in ((10, "s2"), (2, "s1")):
        write_tar(tmp_path / f"test/{number}.tar", {f"{name}.webp": b"x", f"{name}.cls": b"%d" % number})
    (tmp_path / "test" / "nshards.txt").write_text("2\n")
    reader = WebDatasetReader()
    assert [(e.key, e.labels) for e in reader.examples(tmp_path, "test")] == [("s1", (2,)), ("s2", (10,))]
    (tmp_path / "test" / "nshards.txt").write_text("3\n")
    with pytest.raises(IntegrityError, match="found 2 tars, expected 3"):
        list(reader.examples(tmp_path, "test"))


def test_several_labels_captions_and_metadata_are_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "test/0.tar", {
        "a.jpg": b"1", "a.npy": npy([0, 1, 0, 1]), "b.png": b"2", "b.txt": b"a cat\n\na dog\n",
        "c.jpg": b"3", "c.cls": b"5\n", "c.npy": npy([7, 2]), "d.cls": b"1", "d.json": b'{"country": "DE"}',
    })  # fmt: skip
    a, b, c, d = WebDatasetReader().examples(tmp_path, "test")
    assert a.labels == (1, 3) and b.captions == ("a cat", "a dog")
    assert c.labels == (5,) and dict(c.fields) == {"metadata_0": 7.0, "metadata_1": 2.0}
    assert d.image == b"" and d.fields["country"] == "DE"  # without an image it counts as wrong


def test_a_label_that_is_none_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "test/0.tar", {"a.jpg": b"1", "a.cls": b"cat"})
    with pytest.raises(IntegrityError):
        list(WebDatasetReader().examples(tmp_path, "test"))


def test_class_numbers_of_a_copy_are_brought_to_our_order(tmp_path: Path) -> None:
    """CLIP_benchmark's FER2013 has neutral before sad; the paper's list ends with it."""
    names = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
    (tmp_path / "classnames.txt").write_text("\n".join(names) + "\n")
    write_tar(tmp_path / "test/0.tar", {"a.jpg": b"1", "a.cls": b"4", "b.jpg": b"1", "b.cls": b"3"})
    task = open_task("fer2013", tmp_path)
    assert [task.class_names[item.labels[0]] for item in task.items()] == ["neutral", "happy"]
    assert task.prompts.class_names[3] == ("happy", "smiling")


def test_a_copy_with_doubled_names_keeps_its_order(tmp_path: Path) -> None:
    """Copies of ImageNet call two classes missile; 744 must not become 657."""
    names = list(prompt_set("imagenet").keys)
    names[744], names[836] = "missile", "sunglasses"
    (tmp_path / "classnames.txt").write_text("\n".join(names) + "\n")
    write_tar(tmp_path / "test/0.tar", {"a.jpg": b"1", "a.cls": b"744"})
    task = open_task("imagenet", tmp_path)
    assert [item.labels for item in task.items()] == [(744,)] and task.class_names[744] == "projectile"


def copy_of(root: Path, names: Sequence[str], numbers: Sequence[int]) -> None:
    """A WebDataset folder with these class names, and an image of each of these class numbers."""
    root.mkdir(exist_ok=True)
    (root / "classnames.txt").write_text("\n".join(names) + "\n")
    members = {f"s{row}.jpg": b"1" for row in range(len(numbers))}
    labels = {f"s{row}.cls": str(number).encode() for row, number in enumerate(numbers)}
    write_tar(root / "test/0.tar", dict(sorted((members | labels).items())))


def named(task: Task) -> list[str]:
    return [task.class_names[item.labels[0]] for item in task.items()]


@pytest.mark.parametrize("first", ["cheesecake", "cheese plate"])
def test_two_swapped_names_among_many_are_followed(tmp_path: Path, first: str) -> None:
    """Food-101 has cheesecake before cheese_plate; a sorted list of its folders the other way round."""
    pair = ["cheesecake", "cheese plate"] if first == "cheesecake" else ["cheese plate", "cheesecake"]
    names = [name for name in prompt_set("food101").keys if name not in pair]
    copy_of(tmp_path, [*names[:16], *pair, *names[16:]], [16, 17, 100])
    assert named(open_task("food101", tmp_path)) == [*pair, "waffles"]


def test_a_swap_is_followed_beside_a_name_that_is_unknown(tmp_path: Path) -> None:
    names = list(prompt_set("dtd").keys)
    names[3], names[4], names[40] = names[4], names[3], "tufty"
    copy_of(tmp_path, names, [3, 4, 40])
    assert named(open_task("dtd", tmp_path)) == ["bumpy", "bubbly", "studded"]


def test_too_many_unknown_names_are_used_as_they_are(tmp_path: Path) -> None:
    names = list(prompt_set("cifar10").keys)
    names[3], names[4] = "kitty", "stag"
    copy_of(tmp_path, names, [3, 4, 9])
    assert named(open_task("cifar10", tmp_path)) == ["kitty", "stag", "truck"]


def test_a_part_of_our_classes_keeps_our_names(tmp_path: Path) -> None:
    copy_of(tmp_path, ["surprised", "happy"], [0, 1])
    task = open_task("fer2013", tmp_path)
    assert task.prompts.class_names == (("surprised", "shocked", "spooked"), ("happy", "smiling"))


def test_an_empty_line_is_a_class_and_the_last_ones_are_not(tmp_path: Path) -> None:
    """CLIP_benchmark's six distances of CLEVR have no adjective at number 3."""
    copy_of(tmp_path, ["very nearby", "nearby", "near", "", "distant", "very distant", "", ""], [3, 4, 5])
    assert named(open_task("clevr-distance", tmp_path)) == [
        "shapes.",
        "distant shapes.",
        "very distant shapes.",
    ]


def test_templates_beside_the_tars_go_with_the_names_there(tmp_path: Path) -> None:
    copy_of(tmp_path, ["stove", "bed"], [1])
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c} at home.\nmy {c}.\n")
    assert open_task("dollar-street", tmp_path).templates.templates == ("a {} at home.", "my {}.")
    given = prompt_set("stl10")
    assert open_task("dollar-street", tmp_path, prompts=given).templates.templates == given.templates
    copy_of(tmp_path, prompt_set("stl10").keys, [1])  # our names have our templates
    assert open_task("stl10", tmp_path).templates.templates == given.templates


def test_other_classes_than_ours_are_used_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("stove\nbed\n")
    write_tar(tmp_path / "test/0.tar", {"a.jpg": b"1", "a.cls": b"1"})
    task = open_task("dollar-street", tmp_path)
    assert task.class_names == ("stove", "bed") and task.templates.templates == ("a photo of a {}.",)
    (tmp_path / "classnames.txt").unlink()
    with pytest.raises(DataError, match="nobody says what the classes are called"):
        open_task("dollar-street", tmp_path)


def test_splits_of_one_set_in_two_orders_are_brought_together_or_refused(tmp_path: Path) -> None:
    """A probe that learns class 0 as one thing and is asked for another would score by chance."""
    names = list(prompt_set("stl10").keys)
    copy_of(tmp_path / "stl10", [*names[5:], *names[:5]], [0])
    folder = tmp_path / "stl10" / "train"
    columns = {"image": [b"1"], "label": ["car"]}
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "train-0.parquet")
    opened = open_spec(TaskSpec("stl10", task="stl10", protocols=("probe",)), tmp_path)
    (item,) = opened.train.items()
    assert opened.class_names[0] == "dog" and opened.class_names[item.labels[0]] == "car"
    features = {"label": {"names": ["lorry", "car"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / "train-0.parquet")
    with pytest.raises(DataError, match="two splits of a data set have different classes"):
        open_spec(TaskSpec("stl10", task="stl10", protocols=("probe",)), tmp_path)
