"""Going on with a stopped run: the same run, from what it has, and told when something is not as it was."""

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.conftest import Said, call, done

from diptych.core.files.locks import locked
from diptych.core.manifest import file_entry, read_manifest, write_manifest

RECIPE = """
[data]
source = "photos"
workers = 0
[tokenizer]
size = 560
context_length = 16
[model]
preset = "vit-mini-16-64"
[loader]
workers = 0
[train]
steps = 2
batch_size = 4
save_every_steps = 2
precision = "float32"
"""
COLORS = ("red", "green", "blue", "white", "black", "yellow")


def stop(run: Path) -> None:
    """Leave what a kill after step 2 of 4 leaves."""
    for name in ("model", "state/step-0000004"):
        shutil.rmtree(run / name)
    for name in ("manifest.json", "results.json", "report.html"):
        (run / name).unlink()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a recipe, a vocabulary a run of 4 steps: the recipe says 2."""
    place = tmp_path_factory.mktemp("resume")
    (place / "photos").mkdir()
    for color in COLORS:
        Image.new("RGB", (70, 66), color).save(place / "photos" / f"{color}.png")
        (place / "photos" / f"{color}.txt").write_text(f"a {color} square\n", encoding="utf-8")
    (place / "mine.toml").write_text(RECIPE, encoding="utf-8")
    done("train", place / "mine.toml", "--out", place / "run", "--set", "train.steps=4")
    return place


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """The same, killed after its second step."""
    shutil.copytree(finished, tmp_path / "place")
    stop(tmp_path / "place" / "run")
    return tmp_path / "place"


def resume(place: Path, *words: object) -> Said:
    return call("train", place / "mine.toml", "--out", place / "run", "--resume", *words)


def weights(place: Path) -> bytes:
    return (place / "run" / "model" / "model.safetensors").read_bytes()


def goes_on(place: Path, finished: Path, *told: str) -> None:
    """Resume, and hold what is said and the weights against what they should be."""
    said = done("train", place / "mine.toml", "--out", place / "run", "--resume")
    assert all(part in said.err for part in told), said.err
    assert weights(place) == weights(finished)


def test_the_settings_of_the_run_are_repeated(finished: Path, stopped: Path) -> None:
    """`--set train.steps=4` was said once; the recipe alone would end the run at its second step."""
    goes_on(stopped, finished, "resuming at step 2 of 4")


def test_a_run_of_a_version_with_other_names_of_settings_goes_on(finished: Path, stopped: Path) -> None:
    """Settings that were renamed: `gradient_clip` to `max_grad_norm`, `floor_fraction` to `min_lr_ratio`."""
    run = stopped / "run"
    kept = {"assignments": ["train.steps=4", "train.floor_fraction=0.0", "data.max_bad=0.1"]}
    (run / "assignments.json").write_text(json.dumps(kept), encoding="utf-8")
    newest = run / "state" / "step-0000002"
    facts = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    trained = facts["identity"]["train"]
    trained |= {"gradient_clip": trained.pop("max_grad_norm"), "floor_fraction": trained.pop("min_lr_ratio")}
    (newest / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    outputs = tuple(file_entry(newest / name, root=newest) for name in ("state.json", "state.safetensors"))
    write_manifest(newest, dataclasses.replace(read_manifest(newest), outputs=outputs))
    goes_on(stopped, finished, "resuming at step 2 of 4")


def test_settings_that_change_nothing_may_be_changed_and_stay_so(finished: Path, stopped: Path) -> None:
    assert resume(stopped, "--set", "train.log_every=1", "--set", "train.keep=1").code == 0
    assert weights(stopped) == weights(finished)
    kept = json.loads((stopped / "run" / "assignments.json").read_text(encoding="utf-8"))["assignments"]
    assert kept == ["train.steps=4", "train.log_every=1", "train.keep=1"]


@pytest.mark.parametrize(
    "change", ["train.batch_size=2", "train.seed=1", "loader.word_dropout=0.5", "tokenizer.size=561"]
)
def test_a_setting_that_makes_another_run_is_named(change: str, stopped: Path) -> None:
    said = resume(stopped, "--set", change)
    assert said.code == 2
    assert change.replace("=", " = ") in said.err
    assert "data.digest" not in said.err


def test_a_setting_that_was_refused_is_not_kept(stopped: Path) -> None:
    assert resume(stopped, "--set", "train.learning_rate=0.5").code == 2
    assert resume(stopped).code == 0


def test_a_run_that_another_command_works_on_is_left_alone(stopped: Path) -> None:
    before = (stopped / "run" / "metrics.jsonl").read_bytes()
    said: list[Said] = []
    with locked(stopped / "run"):
        second = threading.Thread(target=lambda: said.append(resume(stopped)))
        second.start()
        second.join()
    assert said[0].code == 2
    assert "another command is working in this folder" in said[0].err
    assert (stopped / "run" / "metrics.jsonl").read_bytes() == before


def test_a_changed_source_does_not_touch_the_run(finished: Path, stopped: Path) -> None:
    (stopped / "photos" / "red.txt").write_text("another caption\n", encoding="utf-8")
    goes_on(stopped, finished, f"goes on with the data that it has packed: {stopped / 'run' / 'data'}")


def test_a_source_that_has_moved_does_not_end_the_run(finished: Path, stopped: Path) -> None:
    shutil.rmtree(stopped / "photos")
    goes_on(stopped, finished)


def test_a_vocabulary_changed_by_two_merges_is_refused(stopped: Path) -> None:
    path = stopped / "run" / "tokenizer" / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    merges = document["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(document), encoding="utf-8")
    said = resume(stopped)
    assert said.code == 5
    assert "tokenizer.json" in said.err


def test_a_vocabulary_file_that_is_gone_does_not_end_the_run(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run" / "tokenizer", tmp_path / "words")
    options = f"--set train.steps=4 --set tokenizer.file={tmp_path / 'words'}".split()
    done("train", finished / "mine.toml", "--out", tmp_path / "run", *options)
    stop(tmp_path / "run")
    shutil.rmtree(tmp_path / "words")
    done("train", finished / "mine.toml", "--out", tmp_path / "run", "--resume")
    assert weights(tmp_path) == weights(finished)


def test_another_vocabulary_is_learned_when_the_run_has_not_begun(finished: Path, tmp_path: Path) -> None:
    """A first attempt that ended before its first step must not leave its vocabulary to the second."""
    words = ("train", finished / "mine.toml", "--out", tmp_path / "run")
    assert call(*words, "--set", "train.warmup_steps=9", "--set", "train.steps=none", "--set",
                   "train.epochs=1").code == 2  # fmt: skip
    shutil.copytree(finished / "run" / "tokenizer", tmp_path / "run" / "tokenizer")
    done(*words, "--set", "tokenizer.size=516")
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["text"]["vocab_size"] == 516


def test_a_damaged_state_is_told_and_the_one_before_is_taken(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "place")
    run = tmp_path / "place" / "run"
    for name in ("model", "manifest.json"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "manifest.json").unlink()
    path = run / "state" / "step-0000004" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    goes_on(tmp_path / "place", finished, "step-0000004 cannot be used", "resuming at step 2")


def test_a_damaged_finished_run_is_told_and_written_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "place")
    path = tmp_path / "place" / "run" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    goes_on(tmp_path / "place", finished, "written again from its last state", "model.safetensors")


def test_damage_of_states_and_lines_is_told(finished: Path, stopped: Path) -> None:
    run = stopped / "run"
    shutil.copytree(finished / "run" / "state" / "step-0000004", run / "state" / "step-0000004")
    (run / "state" / "step-0000004" / "manifest.json").unlink()
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"\xff" + lines[0] + b"".join(lines[1:]))
    said = resume(stopped)
    assert said.code == 0, said.err
    assert "step-0000004 cannot be used" in said.err
    assert "1 damaged lines" in said.err
    (run / "state" / "step-0000002" / "manifest.json").unlink()
    stop(run)
    said = resume(stopped)
    assert (said.code, "every saved state of this run is damaged" in said.err) == (5, True)
