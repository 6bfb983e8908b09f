"""Manifests: a finished folder can be told from an unfinished, another or a damaged one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diptych.core.errors import IntegrityError, UsageError
from diptych.core.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    content_digest,
    file_entry,
    is_done,
    read_manifest,
    verify,
    write_manifest,
)


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data.bin").write_bytes(bytes(range(256)) * 4)
    manifest = Manifest(
        "shards",
        format=2,
        settings={"size": (64, 64), "rate": 0.1, "none": None},
        inputs=(FileEntry("photos/a.csv", 12, "00"),),
        outputs=(file_entry(tmp_path / "sub" / "data.bin", root=tmp_path),),
        counts={"in": 3, "out": 2, "dropped": {"empty_caption": 1}},
        seed=7,
        seconds=1.25,
        extra={"by_number": {10: "ten", 9: "nine"}},
    )
    write_manifest(tmp_path, manifest)
    return tmp_path


def test_what_was_written_is_read_back(stage: Path) -> None:
    manifest = read_manifest(stage, "shards")
    assert (manifest.kind, manifest.format, manifest.seed, manifest.seconds) == ("shards", 2, 7, 1.25)
    assert manifest.settings == {"size": [64, 64], "rate": 0.1, "none": None}
    assert manifest.extra == {"by_number": {"10": "ten", "9": "nine"}}
    assert manifest.outputs[0].name == "sub/data.bin" and manifest.outputs[0].bytes == 1024
    assert manifest.inputs == (FileEntry("photos/a.csv", 12, "00"),)
    assert manifest.created_by.startswith("diptych")
    assert is_done(stage, "shards") and not is_done(stage, "checkpoint")
    assert not is_done(stage / "sub", "shards") and not is_done(stage / "missing", "shards")


def test_a_folder_that_is_unfinished_or_of_another_kind_is_a_usage_error(stage: Path) -> None:
    for folder in (stage / "sub", stage / "missing"):
        with pytest.raises(UsageError, match="not a shards folder"):
            read_manifest(folder, "shards")
    with pytest.raises(UsageError) as caught:
        read_manifest(stage, "checkpoint")
    assert (caught.value.found, caught.value.expected) == ("shards", "checkpoint")


def test_verify_passes_on_what_was_written_or_names_file_actual_and_expected(stage: Path) -> None:
    assert verify(stage).kind == "shards"
    data = stage / "sub" / "data.bin"
    good = data.read_bytes()
    data.write_bytes(good[:-1] + b"\x00")
    with pytest.raises(IntegrityError) as caught:
        verify(stage)
    assert "data.bin" in caught.value.where
    assert caught.value.expected == read_manifest(stage).outputs[0].sha256
    assert len(caught.value.found) == len("sha256 ") + 64 and caught.value.exit_code == 5
    data.write_bytes(good[:-1])
    with pytest.raises(IntegrityError, match="found 1,023 bytes, expected 1,024 bytes"):
        verify(stage)
    data.unlink()
    with pytest.raises(IntegrityError, match="no such file"):
        verify(stage)


def test_every_bit_flip_or_truncation_of_a_manifest_is_loud_or_harmless(stage: Path) -> None:
    path = stage / MANIFEST_NAME
    good, written = path.read_bytes(), read_manifest(stage)
    rng = np.random.default_rng(0)
    caught = 0
    for bit in rng.choice(len(good) * 8, size=300, replace=False).tolist():
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bytes(damaged))
        try:
            assert read_manifest(stage) == written  # white space between two values
        except IntegrityError:
            caught += 1
    assert caught > 250
    for size in range(0, len(good.rstrip()) - 1, 7):
        path.write_bytes(good[:size])
        with pytest.raises(IntegrityError):
            read_manifest(stage)


def test_a_file_name_that_leaves_the_folder_is_refused(stage: Path) -> None:
    for name in ("../secret", "/etc/hostname"):
        write_manifest(stage, Manifest("shards", outputs=(FileEntry(name, 1, "00"),)))
        with pytest.raises(IntegrityError, match="a name inside"):
            verify(stage)


def test_the_content_digest_depends_on_the_files_alone(stage: Path) -> None:
    manifest = read_manifest(stage)
    assert content_digest(replace(manifest, seconds=9.0)) == content_digest(manifest)
    other = (FileEntry("sub/data.bin", 1024, "ff"),)
    assert content_digest(replace(manifest, outputs=other)) != content_digest(manifest)
