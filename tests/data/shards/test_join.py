"""Sets that are joined read as one, with the bytes they had."""

from pathlib import Path

import pytest
from tests.data.shards.test_reader import some_pairs

from diptych.core.errors import DataError
from diptych.core.manifest import read_manifest, verify
from diptych.data.shards.reader import ShardSet, ShardSettings, write_shards
from diptych.data.shards.writer import join_shards


def test_joined_sets_read_as_one(tmp_path: Path) -> None:
    pairs = some_pairs(40)
    cuts = [(0, 13), (13, 14), (14, 40)]
    for start, end in cuts:
        write_shards(
            pairs[start:end], tmp_path / "parts" / f"{start:02d}", settings=ShardSettings(max_samples=10)
        )
    parts = sorted((tmp_path / "parts").iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00000.tar").write_text("left by a run that was killed")
    manifest = join_shards(parts, tmp_path / "out", seed=7)
    assert verify(tmp_path / "out") == manifest == read_manifest(tmp_path / "out")
    assert (manifest.seed, manifest.extra) == (7, {"samples": 40, "shard_samples": [10, 3, 1, 10, 10, 6]})
    shards = ShardSet.open(tmp_path / "out")
    assert list(shards) == pairs
    assert shards.pair(25) == pairs[25]
    tars = [path.read_bytes() for part in parts for path in sorted(part.glob("*.tar"))]
    assert [path.read_bytes() for path in sorted((tmp_path / "out").glob("*.tar"))] == tars


def test_nothing_joined_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair is left"):
        join_shards([], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
