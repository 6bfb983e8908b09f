"""Single stages: damaged files between them, and images of evaluation sets."""

from pathlib import Path

import pyarrow as pa
import pytest
from tests.curate import worlds
from tests.curate.fault_server import jpeg

from diptych.core.errors import IntegrityError, TooMuchBadDataError
from diptych.curate.pipeline.run import curate
from diptych.curate.pipeline.stages import Run
from diptych.curate.pipeline.stages_images import in_evaluation
from diptych.data.near_copies.fingerprints import fingerprint_partition


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


def test_images_of_an_evaluation_set_are_found_without_captions_and_too_many_lost_ones_are_an_error(
    tmp_path: Path,
) -> None:
    (tmp_path / "set").mkdir()
    for number in range(9):
        (tmp_path / "set" / f"{number}.jpg").write_bytes(jpeg(number))
    prints, _ = fingerprint_partition(pa.array([jpeg(number) for number in (20, 3, 21, 8)]))
    run = Run(tmp_path, worlds.recipe(candidates={"sources": ["scenes:crawl"]}))
    assert in_evaluation(run, str(tmp_path / "set"), [prints]).tolist() == [False, True, False, True]
    (tmp_path / "set" / "9.jpg").write_bytes(b"no image")
    assert in_evaluation(run, str(tmp_path / "set"), [prints]).sum() == 2
    (tmp_path / "set" / "10.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(TooMuchBadDataError, match=r"2 of 11(.|\n)*evaluation.max_bad_fraction"):
        in_evaluation(run, str(tmp_path / "set"), [prints])
