"""Prompts, the lab, calibration and the reject option, from the command line on the tiny run."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.conftest import Run, call, done

from diptych.evaluate.metrics.calibration import Calibration
from diptych.evaluate.prompts.templates import load

WORDNET = """synset\tlexfile\tpos\tmembers\tdefinition
1-n\tnoun.animal\tn\tbird\ta creature with feathers
2-n\tnoun.animal\tn\twading bird\ta bird with long legs
3-n\tnoun.animal\tn\tcrane\tlarge wading bird of marshes
4-n\tnoun.animal\tn\theron\tgrey wading bird of marshes
5-n\tnoun.artifact\tn\tcrane\ta machine that lifts heavy loads
6-n\tnoun.artifact\tn\tmachine\ta device with moving parts
"""
DRAWN = "scenes:unseen?count=40&seed=5"


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "wordnet.tsv").write_text(WORDNET, encoding="utf-8")
    return tmp_path / "wordnet.tsv"


def test_prompts_name_the_kind_of_what_is_ambiguous(wordnet: Path, tmp_path: Path) -> None:
    out = tmp_path / "birds.toml"
    said = done("prompts", "crane,heron", "--wordnet", wordnet, "--out", out)
    crane, heron = json.loads(said.out)
    assert (crane["synset"], crane["decided_by"]) == ("3-n", "context")
    assert (heron["sense_count"], heron["decided_by"]) == (1, "only sense")
    assert "1 of 2 names are ambiguous" in said.err and "not 5-n  a machine" in said.err
    assert load(out).names == {"crane": ("crane, a type of wading bird",)}
    assert load(out).templates == ("a photo of a {}.",)


def test_decisions_by_hand_and_every_kind(wordnet: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("crane\n\nheron\n", encoding="utf-8")
    (tmp_path / "mine.toml").write_text('crane = "5-n"\n', encoding="utf-8")
    words = ("--wordnet", wordnet, "--by-hand", tmp_path / "mine.toml", "--all-kinds")
    said = done("prompts", tmp_path / "names.txt", *words, "--out", tmp_path / "out.toml")
    assert load(tmp_path / "out.toml").names == {
        "crane": ("crane, a type of machine",),
        "heron": ("heron, a type of wading bird",),
    }
    (tmp_path / "mine.toml").write_text('crane = "77-n"\n', encoding="utf-8")
    said = call("prompts", "crane,heron", *words)
    assert said.code == 3 and "77-n" in said.err and "5-n a machine" in said.err


def test_one_name_is_no_set(wordnet: Path) -> None:
    said = call("prompts", "crane", "--wordnet", wordnet)
    assert said.code == 2 and "at least two" in said.err


def test_the_lab_answers_and_draws(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("{}\na {}\na drawing of a {}.\n", encoding="utf-8")
    page = tmp_path / "lab.html"
    words = ("--labels", "label", "--templates", tmp_path / "t.txt", "--report", page)
    said = done("ablate", run.folder, DRAWN, *words)
    found = json.loads(said.out)
    assert (found["validation"], found["test"], len(found["templates"])) == (20, 20, 3)
    assert [size["templates"] for size in found["sizes"]] == [1, 2, 3]
    assert "a drawing of a {}." in page.read_text(encoding="utf-8")
    said = call("ablate", run.folder, "scenes:unseen?count=1", *words[:4])
    assert said.code == 3 and "0 to choose on, 1 to score" in said.err
    said = done("ablate", run.folder, DRAWN, *words[:4], "--validation", "scenes:unseen?count=9")
    assert (json.loads(said.out)["validation"], json.loads(said.out)["test"]) == (9, 40)


def test_a_calibrated_model_may_say_none_of_these(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    asked = ("classify", run.folder, tmp_path / "red.png", "--labels", "red heart,green star")
    said = call(*asked, "--reject", "0.05", "--calibration", tmp_path / "c.npz")
    assert said.code == 2 and "diptych calibrate" in said.err
    said = done("calibrate", run.folder, "scenes:test?count=60&seed=4", "--out", tmp_path / "c.npz")
    assert json.loads(said.out)["bank"] == {"images": 45, "texts": 45}
    said = call(*asked, "--reject", "0.000001", "--calibration", tmp_path / "c.npz")
    (answer,) = json.loads(said.out)
    assert answer["label"] == "none of these" and answer["p_value"] > 0
    assert all(0 <= label["match"] <= 1 for label in answer["labels"])
    said = call(*asked, "--reject", "0.999999", "--calibration", tmp_path / "c.npz")
    assert json.loads(said.out)[0]["label"] in ("red heart", "green star", "none of these")
    plain = json.loads(call(*asked).out)[0]
    assert "p_value" not in plain and "match" not in plain["labels"][0]
    held = Calibration.load(tmp_path / "c.npz")
    Calibration(held.image_bank, held.text_bank, held.weights, "another").save(tmp_path / "c.npz")
    said = call(*asked, "--reject", "0.05", "--calibration", tmp_path / "c.npz")
    assert said.code == 5 and "another model" in said.err
    said = call(*asked, "--reject", "5", "--calibration", tmp_path / "c.npz")
    assert said.code == 2 and "share" in said.err
