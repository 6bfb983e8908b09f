"""The files that stages leave for each other: whoever damaged them, the error is a clear one."""

from pathlib import Path

import pytest
from tests.curate import worlds

from diptych.core.errors import IntegrityError
from diptych.curate.pipeline.run import curate


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("partitions.json", "[]"),
        ("partitions.json", '{"partitions": [{"kind": "source", "path": 7}]}'),
        ("partitions.json", '{"partitions": [{"path": "a", "no_such": 1}]}'),
        ("00000.json", '{"files": 7, "counts": {}, "seconds": 1}'),
        ("00000.json", '{"files": [], "counts": {"dropped": {"no_such": 1}}, "seconds": 1}'),
        ("00000.json", "{"),
    ],
)
def test_damaged_files_of_a_stage_are_told(tmp_path: Path, name: str, text: str) -> None:
    recipe = worlds.recipe(candidates={"sources": ["scenes:crawl?count=3"]})
    curate(recipe, tmp_path / "out", only="candidates")
    stage = tmp_path / "out" / "stages" / "candidates"
    (stage / "manifest.json").unlink()
    (stage / name).write_text(text)
    with pytest.raises(IntegrityError):
        curate(recipe, tmp_path / "out", only="candidates", resume=True)
