"""Other people's folders and tables: without captions, with files that are gone, with names of any bytes."""

import json
import os
from pathlib import Path

import pytest
from tests.cli.conftest import Run, call, done
from tests.data.source_files import images

from diptych.data.synthetic.dataset import scene_pairs
from diptych.evaluate.metrics.calibration import Calibration


def test_a_folder_of_photos_without_captions_is_searched(run: Run, tmp_path: Path) -> None:
    names = [f"{name}.jpg" for name in ("a", "b", "c", "d", "e", "f", "g")] + ["a.png"]
    photos, index = tmp_path / "photos", tmp_path / "index"
    images(photos, *names)
    counts = json.loads(done("index", "add", index, photos, "--model", run.folder).out)
    assert (counts["in"], counts["out"], counts["dropped"]) == (8, 8, {})
    hits = json.loads(done("search", index, "a cat", "-k", "99").out)
    places = [path for hit in hits for path in (hit["path"], *hit.get("also", ()))]
    assert sorted(places) == sorted(str(photos / name) for name in names)
    (photos / "h.jpg").write_bytes(b"no image")
    (photos / "i.jpg").symlink_to(tmp_path / "gone.jpg")
    said = call("index", "add", index, "--bad", tmp_path / "bad.json")
    assert said.code == 3 and "2 of 10" in said.err
    assert json.loads(said.out)["dropped"] == {"unreadable_image": 1, "missing_image": 1}
    assert {Path(bad["image"]).name for bad in json.loads((tmp_path / "bad.json").read_text())} == {
        "h.jpg",
        "i.jpg",
    }
    said = done("index", "add", index, "--max-bad-fraction", "0.2")
    assert "1 of 10 samples: missing_image" in said.err and "i.jpg" in said.err


def test_labelled_rows_without_their_image_count_as_wrong_and_beyond_a_share_as_a_mistake(
    run: Run, tmp_path: Path
) -> None:
    images(tmp_path, *(f"{number}.jpg" for number in range(4)))
    rows = [f"{number}.jpg,{'cat' if number < 2 else 'dog'}" for number in range(98)]
    rows += ["https://example.org/x.jpg,dog", "3.jpg"]
    (tmp_path / "t.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    words = ("evaluate", run.folder, tmp_path / "t.csv", "--labels", "label")
    said = call(*words)
    assert (said.code, said.out) == (3, "")
    assert "96 of 100 dropped" in said.err and "missing_image 94" in said.err
    said = done(*words, "--max-bad-fraction", "1")
    numbers = {metric["metric"]: metric for metric in json.loads(said.out)}
    assert numbers["top1"]["n"] == 99 and numbers["top1"]["value"] <= 4 / 99
    assert numbers["top5"]["value"] == 4 / 99  # of two classes: every image that can be read is right
    bad = {name: metric["value"] for name, metric in numbers.items() if name.startswith("bad_samples")}
    assert bad == {
        "bad_samples[missing_image]": 94, "bad_samples[remote_image]": 1, "bad_samples[bad_row]": 1,
    }  # fmt: skip
    assert "94 of 100 samples: missing_image" in said.err


def test_images_without_a_caption_are_no_part_of_a_retrieval(run: Run, tmp_path: Path) -> None:
    images(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "1.txt").write_text("a red heart")
    (tmp_path / "2.txt").write_text("a blue star")
    said = call("evaluate", run.folder, tmp_path)
    assert said.code == 3 and "missing_caption 1" in said.err
    said = call("evaluate", run.folder, tmp_path, "--max-bad-fraction", "0.5")
    numbers = {metric["metric"]: metric for metric in json.loads(said.out)}
    assert numbers["image_to_text_recall@1"]["n"] == 2
    assert numbers["bad_samples[missing_caption]"]["value"] == 1


def test_a_folder_per_class_is_scored_by_the_names_of_its_folders(run: Run, tmp_path: Path) -> None:
    images(tmp_path, *(f"class {number}/{image}.jpg" for number in (1, 2, 10) for image in "ab"))
    said = done("evaluate", run.folder, tmp_path, "--task", "zeroshot")
    assert json.loads(said.out)[0]["n"] == 6
    assert "zero-shot among 3 classes, 3 of which occur: class 1, class 2, class 10" in said.err


def test_a_calibration_from_images_alone_rejects_and_tells_no_matches(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for number, pair in enumerate(scene_pairs(24, seed=0)):
        (tmp_path / "f" / f"{number}.jpg").write_bytes(pair.image)
    file = tmp_path / "c.npz"
    assert call("calibrate", run.folder, tmp_path / "f", "--out", file).code == 3  # no captions
    said = done("calibrate", run.folder, tmp_path / "f", "--images", "--out", file)
    assert json.loads(said.out)["bank"] == {"images": 24, "texts": 0}
    assert not Calibration.load(file).has_pairs
    words = ("classify", run.folder, tmp_path / "f/1.jpg", "--labels", "a cat,a dog", "--calibration", file)
    (found,) = json.loads(call(*words, "--reject", "0.1").out)
    assert 0 < found["p_value"] <= 1 and all("match" not in label for label in found["labels"])


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_file_name_that_is_not_utf8_comes_back_as_json_that_opens_the_file(
    run: Run, tmp_path: Path
) -> None:
    images(tmp_path / "f", os.fsdecode(b"caf\xe9.jpg"), "b.jpg")
    done("index", "add", tmp_path / "index", tmp_path / "f", "--model", run.folder)
    said = call("search", tmp_path / "index", "a cat")
    said.out.encode("utf-8")
    paths = [path for hit in json.loads(said.out) for path in (hit["path"], *hit.get("also", ()))]
    assert len(paths) == 2 and all(Path(path).is_file() for path in paths)
    said = call("classify", run.folder, *paths, "--labels", "a,b")
    said.out.encode("utf-8")
    assert [found["image"] for found in json.loads(said.out)] == paths


def test_classifying_nothing_is_a_mistake(run: Run, tmp_path: Path) -> None:
    said = call("classify", run.folder, "--labels", "a cat,a dog")
    assert (said.code, said.out) == (2, "") and "IMAGE" in said.err
    (tmp_path / "empty").mkdir()
    said = call("classify", run.folder, tmp_path / "empty", "--labels", "a cat,a dog")
    assert (said.code, said.out) == (2, "") and "holds no images" in said.err


def test_folders_and_files_are_classified_and_what_cannot_be_read_is_named_with_its_reason(
    run: Run, tmp_path: Path
) -> None:
    images(tmp_path, "f/b.png", "f/a/2.jpg", "f/a/1.jpg", "c.jpg", "f/.hidden.jpg")
    (tmp_path / "f" / "notes.txt").write_text("no image")
    words = ("classify", run.folder, tmp_path / "f", tmp_path / "c.jpg", "--labels", "a cat,a dog")
    said = done(*words)
    found = [str(Path(answer["image"]).relative_to(tmp_path)) for answer in json.loads(said.out)]
    assert found == ["f/b.png", "f/a/1.jpg", "f/a/2.jpg", "c.jpg"]
    whole = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "f" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "f" / "text.jpg").write_text("no image")
    said = call(*words)
    assert said.code == 3 and len(json.loads(said.out)) == 4
    assert "2 of 6" in said.err and "truncated_image 1" in said.err and "unreadable_image 1" in said.err
    assert str(tmp_path / "f" / "cut.jpg") in said.err and str(tmp_path / "f" / "text.jpg") in said.err


def test_labels_come_by_commas_one_by_one_or_from_a_file(run: Run, tmp_path: Path) -> None:
    images(tmp_path, "1.jpg")

    def labels(*words: object) -> set[str]:
        (found,) = json.loads(done("classify", run.folder, tmp_path / "1.jpg", *words).out)
        names, shares = zip(*(label.values() for label in found["labels"]), strict=True)
        assert found["label"] == names[0] and found["image"] == str(tmp_path / "1.jpg")
        assert list(shares) == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-4)
        return set(names)

    assert labels("--labels", "a cat, a dog") == {"a cat", "a dog"}
    assert len(labels("--labels", ",".join(f"cat {number}" for number in range(100)))) == 100
    assert labels("--labels", "a cat, asleep", "--labels", "a dog") == {"a cat, asleep", "a dog"}
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfa cat, asleep\r\n\r\n a dog \r\n")
    assert labels("--labels", tmp_path / "labels.txt") == {"a cat, asleep", "a dog"}
    (tmp_path / "labels.txt").write_bytes("a cat\na dog".encode("utf-16"))
    said = call("classify", run.folder, tmp_path / "1.jpg", "--labels", tmp_path / "labels.txt")
    assert said.code == 2 and "UTF-16" in said.err
    said = call("classify", run.folder, tmp_path / "1.jpg", "--labels", "lables.txt")
    assert said.code == 2 and "one name a line" in said.err
