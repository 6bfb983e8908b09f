"""docs/load.md is true: its snippets run on small random weights, its commands too, its table is whole."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.conftest import blocks, done
from tests.models.published import ALONE_GELU, GELU, WORDS, agrees, openai_clip
from tests.peers import peers_environment, require_peers_python

from diptych.data.images.transforms import Preprocess
from diptych.models.formats import references
from diptych.models.formats.convert import convert
from diptych.models.formats.references import public_names
from diptych.models.load import load

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "load.md").read_text(encoding="utf-8")


def section(language: str, title: str) -> list[str]:
    return blocks(PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0], language)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the page names; the hub answers with one of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocabulary").mkdir()
    WORDS.save(tmp_path / "vocabulary")
    state = {f"module.{name}": tensor for name, tensor in openai_clip(GELU()).state_dict().items()}
    torch.save({"epoch": 32, "state_dict": state}, "epoch_32.pt")
    (tmp_path / "mine.json").write_text(json.dumps(ALONE_GELU["config"]))
    convert(load("epoch_32.pt", **ALONE_GELU), "folder", "open_clip")
    monkeypatch.setattr(references, "fetch_model", lambda repository, hub: tmp_path / "folder")
    return tmp_path


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile("import diptych\n" + code, "load.md", "exec"), names)
    return names


def test_the_snippets_of_loading_run(place: Path) -> None:
    codes = section("python", "Load any CLIP")
    assert len(codes) == 2
    for code in codes:
        model = run(code)["model"]
        agrees(model, GELU())
        assert model.preprocess == Preprocess(size=(32, 32))
        assert model.provenance["files"]


@pytest.fixture
def moved(place: Path) -> Path:
    """Every command of the page, run."""
    lines = "\n".join(section("sh", "Move between libraries")).splitlines()
    assert len(lines) == 3
    for line in lines:
        done(*shlex.split(line)[1:])
    return place


def test_what_the_commands_wrote_is_what_the_snippets_load(moved: Path) -> None:
    theirs, foreign, own = section("python", "Move between libraries")
    found = run(theirs)
    given = found["processor"](text=["a red dog"], return_tensors="pt", padding="max_length", max_length=20)
    with torch.no_grad():
        embeds = found["model"].eval().get_text_features(**given)
    embeds = torch.nn.functional.normalize(getattr(embeds, "pooler_output", embeds), dim=-1)
    model = run(own)["model"]
    agrees(model, GELU())
    assert (model.encode_text(model.tokenize("a red dog"), normalize=True) - embeds).abs().max() < 1e-5
    assert "import open_clip" in foreign  # the next test


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_what_the_commands_wrote_is_what_open_clip_loads(moved: Path) -> None:
    side = Path(__file__).resolve().parents[1] / "models" / "peers"
    code = f"import sys; sys.path.insert(0, {str(side)!r}); import open_clip_files\n" + (
        section("python", "Move between libraries")[1]
        + "print(model.encode_text(tokenizer(['a red dog']), normalize=True).tolist())"
    )
    command, environment = [require_peers_python(), "-c", code], peers_environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    model = load("ours")
    expected = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert (model.encode_text(model.tokenize("a red dog"), normalize=True) - expected).abs().max() < 1e-5


def test_the_table_holds_every_public_name() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (.+?) \| (\S+) \| (\S*) ?\|$", PAGE, flags=re.M)
    found = {name: (repository, preprocess, top1) for name, repository, _, preprocess, top1 in rows}
    expected = {
        name: (row.repository, row.preprocess, "" if row.imagenet is None else f"{row.imagenet:g}")
        for name, row in public_names().items()
    }
    assert found == expected
