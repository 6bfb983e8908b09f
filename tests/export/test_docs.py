"""The page about exports is true: its commands parse, its code runs, its tables name what there is."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from tests.cli.conftest import Said
from tests.export.small import small_model

from diptych.export.onnx import export
from diptych.models.checkpoint import save
from diptych.models.runtimes.exported import PRECISIONS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_the_commands_of_the_page_run(
    diptych: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save("runs/demo", small_model())
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    for line in "\n".join(blocks("sh")).splitlines():
        words = shlex.split(line.replace("count=200", "count=12"), comments=True)
        if "--labels" in words and words[1] == "export":
            words[3] = "out/again"
        said = diptych(*words[1:])
        assert said.code == 0, said.err


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(small_model(), "out/demo")
    (code,) = blocks("python")
    names = {"images": [Image.new("RGB", (40, 30), "red")] * 3}
    exec(compile(code, "export.md", "exec"), names)
    assert names["probabilities"].shape == (3, 2)
    assert np.isfinite(names["probabilities"]).all()
    for name in ("image.onnx", "text.onnx"):
        graph = onnx.load(Path("out/demo") / name).graph
        (given,), (result,) = graph.input, graph.output
        assert re.search(rf"^\| `{name}` \| `{given.name}` .* \| `{result.name}` ", PAGE, flags=re.M)


def test_the_page_names_every_precision() -> None:
    table = PAGE.split("## Precisions")[1]
    assert tuple(re.findall(r"^\| (\w+) \|", table, flags=re.M)[0:]) == PRECISIONS
