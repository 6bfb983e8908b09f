"""docs/load.md is true: its snippets run on small random weights, its commands parse, its table is whole."""

import functools
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.conftest import Said
from tests.models.published import GELU, WORDS, openai_clip

from diptych.cli import commands
from diptych.data.images import Preprocess
from diptych.models import load as loading
from diptych.models.convert_model import convert
from diptych.models.load import load
from diptych.models.public_names import public_names

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "load.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocabulary").mkdir()
    WORDS.save(tmp_path / "vocabulary")
    state = {f"module.{name}": tensor for name, tensor in openai_clip(GELU()).state_dict().items()}
    torch.save({"epoch": 32, "state_dict": state}, "epoch_32.pt")
    model = load("epoch_32.pt", activation="gelu", preprocess="clip", tokenizer=WORDS)
    convert(model, "folder", "open_clip")
    monkeypatch.setattr(loading, "fetch_model", lambda repository, hub: tmp_path / "folder")
    for code in blocks("python"):
        names: dict[str, Any] = {}
        exec(compile("import diptych\n" + code, "load.md", "exec"), names)
        assert names["model"].config == model.config
        assert names["model"].preprocess == Preprocess(size=(32, 32))
        assert names["model"].provenance["files"]


def test_the_commands_are_understood(diptych: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def accepted(*words: Any, **options: Any) -> int:
            inspect.signature(function).bind(*words, **options)
            return 0

        return accepted

    taken = {name: parsed(function) for name, function in commands.COMMANDS.items()}
    monkeypatch.setattr(commands, "COMMANDS", taken)
    lines = "\n".join(blocks("sh")).splitlines()
    assert len(lines) == 2
    for line in lines:
        said = diptych(*shlex.split(line)[1:])
        assert said.code == 0, said.err


def test_the_table_holds_every_public_name() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (.+?) \| (\S+) \| (\S*) ?\|$", PAGE, flags=re.M)
    found = {name: (repository, preprocess, top1) for name, repository, _, preprocess, top1 in rows}
    expected = {
        name: (row.repository, row.preprocess, "" if row.imagenet is None else f"{row.imagenet:g}")
        for name, row in public_names().items()
    }
    assert found == expected
