"""Readers of images with several captions each."""

import json
from pathlib import Path

import pytest

from diptych.core.errors import IntegrityError
from diptych.core.records import Counts
from diptych.evaluate.tasks.registry import open_task

IMAGE = b"\x89PNG"


def read(name: str, root: Path) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(p.key, p.captions, p.image != b"") for p in open_task(name, root).pairs(Counts())]


def test_karpathys_split_is_read(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(6)]
    images = [
        {"filename": name, "filepath": "val2014", "split": split, "sentences": [{"raw": t} for t in own]}
        for name, split, own in (
            ("a.jpg", "test", texts),
            ("b.jpg", "restval", ["no"]),
            ("c.jpg", "test", texts[:1]),
        )
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "a.jpg").write_bytes(IMAGE)
    expected = [("val2014/a.jpg", tuple(texts[:5]), True), ("val2014/c.jpg", ("text 0",), False)]
    assert read("mscoco", tmp_path) == expected
    task = open_task("mscoco", tmp_path)
    assert task.class_names == () and task.row.metric == "recall"


def test_crossmodal_3600_is_read_in_any_of_its_languages(tmp_path: Path) -> None:
    lines = [
        {"image/key": "0b", "en": {"caption": ["a dog", "a brown dog"]}, "ja": {"caption": ["茶色い犬"]}},
        {"image/key": "0a", "en": {"caption": ["a cat"]}, "ja": {"caption": ["猫", "黒猫"]}},
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "captions.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0b.jpg").write_bytes(IMAGE)
    expected = [("images/0b.jpg", ("a dog", "a brown dog"), True), ("images/0a.jpg", ("a cat",), False)]
    assert read("xm3600", tmp_path) == expected
    other = open_task("xm3600", tmp_path, split="ja").items()
    assert [item.captions for item in other] == [("茶色い犬",), ("猫", "黒猫")]
    with pytest.raises(IntegrityError, match=r"captions\.jsonl"):
        list(open_task("xm3600", tmp_path, split="sw").items())


def test_captions_of_coco_are_joined_to_their_images(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "annotations").symlink_to(shared_data / "text")
    (tmp_path / "val2017").symlink_to(shared_data / "coco" / "images")
    items = list(open_task("mscoco-2017", tmp_path).items())
    assert len(items) == 5000 and all(len(item.captions) == 5 for item in items)
    lines = (shared_data / "coco" / "captions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    published: dict[str, set[str]] = {}
    for line in lines:
        name, caption = line.split("\t")[:2]
        published.setdefault(Path(name).name, set()).add(" ".join(caption.split()))
    captions = {Path(item.key).name: {" ".join(t.split()) for t in item.captions} for item in items}
    shared = [name for name in published if name in captions]
    assert len(shared) == 160 and all(captions[name] <= published[name] for name in shared)
