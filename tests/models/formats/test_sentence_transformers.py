"""CLIPs in the folders of sentence-transformers, older and newer."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.models.test_transformers_files import clip_model, compare, processor, saved

from diptych.core.errors import DiptychError, IntegrityError, UnsupportedError
from diptych.models.load import load

OLD, NEW = "sentence_transformers.models.CLIPModel", "sentence_transformers.base.modules.Transformer"
NORMALIZE = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}


def stage(kind: str, path: str) -> dict[str, Any]:
    return {"idx": 0, "name": "0", "path": path, "type": kind}


def written(folder: Path, stages: Any, inside: str = "0_CLIPModel") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(stages))
    if inside:
        saved(folder / inside, clip_model())
    return folder


@pytest.mark.parametrize("stages", [[stage(OLD, "0_CLIPModel")], [stage(NEW, "0_CLIPModel"), NORMALIZE]])
def test_the_clip_of_the_first_stage_is_the_model(stages: Any, tmp_path: Path) -> None:
    ours = load(written(tmp_path / "st", stages))
    compare(ours, clip_model(), processor(tmp_path / "st" / "0_CLIPModel"))


def test_newer_folders_hold_the_clip_itself(tmp_path: Path) -> None:
    folder = saved(tmp_path / "st", clip_model())
    written(folder, [stage(OLD, "")], inside="")
    compare(load(folder), clip_model(), processor(folder))


@pytest.mark.parametrize(
    "stages",
    [
        [stage(OLD, "0_CLIPModel"), {**NORMALIZE, "type": "sentence_transformers.models.Dense"}],
        [stage("sentence_transformers.models.BoW", "0_CLIPModel")],
        [],
    ],
)
def test_other_stages_are_refused_by_name(stages: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"modules\.json"):
        load(written(tmp_path / "st", stages))


@pytest.mark.parametrize(
    "stages", [[stage(OLD, "../../etc")], [stage(OLD, "a\0b")], {"a": 1}, [1], [{"type": 5, "path": "x"}]]
)
def test_malformed_stages_are_damage(stages: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"modules\.json"):
        load(written(tmp_path / "st", stages))
    (tmp_path / "st" / "modules.json").write_bytes(b"[" * 10_000)
    with pytest.raises(DiptychError):
        load(tmp_path / "st")
