"""Evaluation sets that a curated set must not overlap: without captions, with images that are gone."""

from pathlib import Path

import pyarrow as pa
import pytest
from tests.curate import worlds

from diptych.core.errors import TooMuchBadDataError
from diptych.curate.pipeline.stages import Run
from diptych.curate.pipeline.stages_images import in_evaluation
from diptych.data.near_copies.fingerprints import fingerprint_partition


def test_images_of_an_evaluation_set_are_found_without_captions_and_too_many_lost_ones_are_an_error(
    tmp_path: Path,
) -> None:
    (tmp_path / "set").mkdir()
    for number in range(9):
        (tmp_path / "set" / f"{number}.jpg").write_bytes(worlds.picture(number))
    prints, _ = fingerprint_partition(pa.array([worlds.picture(number) for number in (20, 3, 21, 8)]))
    run = Run(tmp_path, worlds.recipe(candidates={"sources": ["scenes:crawl"]}))
    assert in_evaluation(run, str(tmp_path / "set"), [prints]).tolist() == [False, True, False, True]
    (tmp_path / "set" / "9.jpg").write_bytes(b"no image")
    assert in_evaluation(run, str(tmp_path / "set"), [prints]).sum() == 2
    (tmp_path / "set" / "10.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(TooMuchBadDataError, match=r"2 of 11(.|\n)*evaluation.max_bad_fraction"):
        in_evaluation(run, str(tmp_path / "set"), [prints])
