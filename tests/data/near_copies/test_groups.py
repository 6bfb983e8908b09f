"""Planted copies are found and others are not; equal, near, by caption; in any order."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance, ImageOps
from tests.data.odd_files import encoded as encoded_as

from diptych.core.errors import DataError, EnvironmentFault
from diptych.curate.dedup import blocked_rows, caption_signatures, read_blocked_images
from diptych.curate.words import normalized
from diptych.data.near_copies.fingerprints import FINGERPRINTS, fingerprint_partition
from diptych.data.near_copies.groups import DedupSettings, duplicate_groups, in_both
from diptych.data.synthetic.dataset import scene_pairs


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    return encoded_as(image, "JPEG", quality=quality)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def copies(data: bytes, rng: np.random.Generator) -> dict[str, bytes]:
    """The edits of E6: each as a site might have made it."""
    image = opened(data)
    width, height = image.size
    scale = rng.uniform(0.5, 1.5, 2).mean()
    left, top, right, bottom = rng.uniform(0.0, 0.03, 4)
    grey = (int(rng.choice([0, 128, 255])),) * 3
    return {
        "resized": encoded(image.resize((round(width * scale), round(height * scale)))),
        "recompressed": encoded(image, quality=int(rng.integers(30, 96))),
        "cropped": encoded(
            image.crop((
                round(width * left), round(height * top),
                round(width * (1 - right)), round(height * (1 - bottom)),
            ))
        ),
        "brightness": encoded(ImageEnhance.Brightness(image).enhance(rng.uniform(0.75, 1.25))),
        "grayscale": encoded(image.convert("L")),
        "border": encoded(ImageOps.expand(image, max(1, round(0.02 * width)), grey)),
    }  # fmt: skip


def fingerprints(images: list[bytes | None]) -> pa.Table:
    return fingerprint_partition(pa.array(images, pa.binary()))[0]


@pytest.fixture(scope="module")
def scenes() -> list[bytes]:
    return [pair.image for pair in scene_pairs(200, seed=3, size=96)]


def planted(images: list[bytes], count: int) -> tuple[list[bytes], list[tuple[str, int]]]:
    """Take `count` copies, the edits in turn, of as many images as there are."""
    rng = np.random.default_rng(0)
    sources = [int(number * len(images) / count) for number in range(count)]
    edits = [list(copies(images[source], rng).items())[n % 6] for n, source in enumerate(sources)]
    return [data for _, data in edits], [
        (name, source) for (name, _), source in zip(edits, sources, strict=True)
    ]


def test_e6_planted_copies_among_photographs_and_scenes(shared_data: Path, scenes: list[bytes]) -> None:
    """200 copies of 100 real photographs and 200 scenes: one in a hundred may be missed, none added."""
    photos = [path.read_bytes() for path in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:100]]
    images, count = [*photos, *scenes[:200]], 200
    made, of = planted(images, count)
    keys = pa.array([f"{number:06d}" for number in range(len(images) + count)])
    groups = duplicate_groups([fingerprints(images), fingerprints(made)], keys=keys).representative
    missed = [edit for row, edit in enumerate(of, start=len(images)) if groups[row] != edit[1]]
    assert sum(1 for _, source in missed if source < len(photos)) <= 1, missed
    assert len(missed) <= count // 100, missed
    assert (groups[: len(images)] == np.arange(len(images))).all()


def test_equal_bytes_and_equal_pixels_are_equal_copies(scenes: list[bytes]) -> None:
    image = opened(scenes[0])
    png, bigger = encoded_as(image, "PNG"), encoded_as(image, "PNG", compress_level=0)
    with_remark = scenes[1][:2] + b"\xff\xfe\x00\x08remark" + scenes[1][2:]
    rows = [scenes[0], scenes[1], scenes[0], png, bigger, with_remark, scenes[2]]
    table = fingerprints(rows)
    found = duplicate_groups([table], settings=DedupSettings(near=False))
    # The PNG holds what Pillow decoded; the same pixels as the JPEG's.
    assert found.representative.tolist() == [0, 1, 0, 0, 0, 1, 6]
    assert found.equal.tolist() == [False, False, True, True, True, True, False]
    assert table.column("sha256")[0].as_py() == hashlib.sha256(scenes[0]).digest()


def test_a_near_copy_is_told_from_an_equal_one(scenes: list[bytes]) -> None:
    near = encoded(opened(scenes[0]), quality=60)
    found = duplicate_groups([fingerprints([scenes[0], near, near, scenes[0]])])
    assert found.representative.tolist() == [0, 0, 0, 0]
    assert found.equal.tolist() == [False, False, False, True]


def test_the_lowest_key_stays_whatever_the_order(scenes: list[bytes]) -> None:
    made, _ = planted(scenes[:60], 60)
    rows = [*scenes[:60], *made, *scenes[:5]]
    keys = np.array([f"key-{number * 7919 % 1009:04d}" for number in range(len(rows))])
    table = fingerprints(rows)
    base = duplicate_groups([table], keys=pa.array(keys)).representative
    assert all(keys[kept] <= keys[row] for row, kept in enumerate(base))
    rng = np.random.default_rng(5)
    for _ in range(3):
        order = rng.permutation(len(rows))
        parts = [table.take(pa.array(part)) for part in np.array_split(order, 4)]
        again = duplicate_groups(parts, keys=pa.array(keys[order])).representative
        assert {keys[order[row]]: keys[order[kept]] for row, kept in enumerate(again)} == {
            keys[row]: keys[kept] for row, kept in enumerate(base)
        }


def test_what_cannot_be_read_is_counted_and_is_a_copy_of_nothing(scenes: list[bytes]) -> None:
    images = [scenes[0], None, b"", scenes[0][:-400], b"<html>", None]
    table, counts = fingerprint_partition(pa.array(images, pa.binary()))
    assert table.schema == FINGERPRINTS and len(table) == 6
    reasons = ["missing_image", "missing_image", "truncated_image", "unreadable_image", "missing_image"]
    assert (counts.as_dict()["in"], counts.as_dict()["out"]) == (6, 1)
    assert counts.as_dict()["dropped"] == Counter(reasons)
    assert table.column("reason").to_pylist() == [None, *reasons]
    assert duplicate_groups([table]).representative.tolist() == [0, 1, 2, 3, 4, 5]


def test_flat_images_are_copies_only_where_their_pixels_are_equal() -> None:
    grey, other = Image.new("RGB", (90, 90), (128,) * 3), Image.new("RGB", (90, 90), (20,) * 3)
    images = [encoded_as(grey, "PNG"), encoded_as(other, "PNG"), encoded_as(grey, "BMP")]
    assert duplicate_groups([fingerprints(images)]).representative.tolist() == [0, 1, 0]


def test_nothing_has_no_groups() -> None:
    assert len(duplicate_groups([]).representative) == 0
    assert len(duplicate_groups([fingerprints([])]).representative) == 0
    assert len(caption_signatures(pa.array([], pa.string()))) == 0


def test_training_and_evaluation_sets_share_what_was_planted(scenes: list[bytes]) -> None:
    training, evaluation = scenes[:100], scenes[100:200]
    made, of = planted(evaluation[:30], 30)
    # Copies inside one set are no overlap.
    tables = [fingerprints([*training, training[0]]), fingerprints([*made, evaluation[50]])]
    here, there = in_both(tables, fingerprints([*evaluation, evaluation[70]]))
    assert here[:101].sum() == 0 and here[101:].sum() >= 30 and here[-1]
    assert there[[source for _, source in of]].sum() >= 29 and there[50]
    assert there.sum() <= 31 and not there[70] and not there[100]


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = normalized(text).split()
    return frozenset(pairwise(words)) or frozenset([tuple(words)])


def sentences() -> Iterator[str]:
    rng = np.random.default_rng(4)
    vocabulary = [f"w{number}" for number in range(300)]
    for _ in range(300):
        words = list(rng.choice(vocabulary, int(rng.integers(8, 30))))
        yield " ".join(words)
        if rng.random() < 0.5:
            words[int(rng.integers(len(words)))] = "changed"
            yield " ".join(words)


def test_equal_places_of_signatures_estimate_the_jaccard_similarity() -> None:
    texts = list(sentences())
    signatures, sets = caption_signatures(pa.array(texts)), [shingles(text) for text in texts]
    equal = np.array([(signatures[row] == signatures[row - 1]).mean() for row in range(1, len(texts))])
    true = np.array([len(sets[r] & sets[r - 1]) / len(sets[r] | sets[r - 1]) for r in range(1, len(texts))])
    assert np.abs(equal - true).mean() < 0.04 and np.abs((equal - true).mean()) < 0.01


def test_blocked_images_are_found_by_digest_and_by_hash(scenes: list[bytes], tmp_path: Path) -> None:
    digest, hashed = (
        hashlib.sha256(scenes[1]).hexdigest(),
        fingerprints([scenes[2]])["hashes"][0].as_py()[:8].hex(),
    )
    (tmp_path / "blocked").write_text(f"# never\n{digest.upper()}  # one\n\n{hashed}\n", encoding="utf-8")
    blocked = read_blocked_images(tmp_path / "blocked")
    again = encoded(opened(scenes[2]), quality=70)
    rows = fingerprints([*scenes[:4], again, encoded(opened(scenes[1]), quality=70), None])
    assert blocked_rows(rows, blocked).tolist() == [False, True, True, False, True, False, False]
    (tmp_path / "blocked").write_text(f"{digest}\nnot a hash\n", encoding="utf-8")
    with pytest.raises(DataError, match="no hash") as caught:
        read_blocked_images(tmp_path / "blocked")
    assert "line 2" in str(caught.value)
    with pytest.raises(EnvironmentFault):
        read_blocked_images(tmp_path / "absent")
