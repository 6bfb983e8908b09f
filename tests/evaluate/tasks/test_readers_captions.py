"""Readers of images with several captions each."""

import json
from pathlib import Path

import pytest

from diptych.core.errors import IntegrityError
from diptych.core.records import Counts
from diptych.evaluate.tasks.registry import open_task

IMAGE = b"\x89PNG"


def test_karpathys_split_is_read(tmp_path: Path) -> None:
    def entry(name: str, split: str, *texts: str) -> object:
        sentences = [{"raw": text} for text in texts]
        return {"filename": name, "filepath": "val2014", "split": split, "sentences": sentences}

    six = [f"text {n}" for n in range(6)]
    images = [entry("a.jpg", "test", *six), entry("b.jpg", "restval", "no"), entry("c.jpg", "test", "one")]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "a.jpg").write_bytes(IMAGE)
    task = open_task("mscoco", tmp_path)
    pairs = list(task.pairs(Counts()))
    assert [(p.key, len(p.captions), p.image != b"") for p in pairs] == [
        ("val2014/a.jpg", 5, True), ("val2014/c.jpg", 1, False)
    ]  # fmt: skip
    assert task.class_names == () and task.row.metric == "recall"


def test_crossmodal_3600_is_read_in_any_of_its_languages(tmp_path: Path) -> None:
    def line(key: str, **texts: list[str]) -> str:
        entries = {name: {"caption": own, "caption/tokenized": own} for name, own in texts.items()}
        return json.dumps({**entries, "image/key": key, "image/locale": "de"}, ensure_ascii=False)

    lines = [
        line("0b", en=["a dog", "a brown dog"], ja=["茶色い犬"]),
        line("0a", en=["a cat"], ja=["猫", "黒猫"]),
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0b.jpg").write_bytes(IMAGE)
    pairs = list(open_task("xm3600", tmp_path).pairs(Counts()))
    assert [(p.key, p.captions, p.image != b"") for p in pairs] == [
        ("images/0b.jpg", ("a dog", "a brown dog"), True), ("images/0a.jpg", ("a cat",), False)
    ]  # fmt: skip
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
    read = {Path(item.key).name: {" ".join(t.split()) for t in item.captions} for item in items}
    shared = [name for name in published if name in read]
    assert len(shared) == 160 and all(read[name] <= published[name] for name in shared)
