"""What the words of a command tell by themselves is told before torch is imported, and before any work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Run

PROGRAM = """
import contextlib, io, json, shlex, sys
from diptych.cli.main import main
for line in json.load(sys.stdin):
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = main(shlex.split(line))
    print(json.dumps([line, code, "torch" in sys.modules, told.getvalue()]))
"""
LINES = [
    "tokenizer none OUT",
    "pack none OUT",
    "remove none key",
    "curate none.toml",
    "curate --estimate none",
    "train none.toml",
    "train RECIPE --set data.source=none --out OUT",
    "train RECIPE --set tokenizer.file=none --out OUT",
    "train RECIPE --set evaluate.0.source=none --out OUT",
    "train RECIPE --set evaluate.0.templates=none.txt --out OUT",
    "train RECIPE --set evaluate.0.labels=lable --out OUT",
    "train RECIPE --set model.preset=ViT-B32 --out OUT",
    "train RECIPE --out RUN",
    "train RECIPE --out RECIPE",
    "evaluate none/of/these scenes:test?count=12",
    "evaluate RUN none",
    "evaluate RUN none --task zeroshot --labels label",
    "evaluate RUN scenes:unseen?count=12 --task zeroshot --labels lable",
    "evaluate RUN scenes:unseen?count=12 --task zeroshot --labels label --templates none.txt",
    "evaluate RUN --suite none.toml",
    "evaluate RUN --suite cifar10 --data none",
    "classify none/of/these IMAGE --labels a,b",
    "classify RUN none.jpg --labels a,b",
    "classify RUN IMAGE --labels a,b --templates none.txt",
    "classify RUN IMAGE --labels a,b --reject 0.1 --calibration none.npz",
    "calibrate none/of/these scenes:test?count=12",
    "calibrate RUN none",
    "prompts crane,heron --wordnet none",
    "ablate RUN none --labels label --templates imagenet",
    "ablate RUN scenes:unseen?count=12 --labels label --templates none.txt",
    "search none/of/these scenes:test?count=12 red",
    "search RUN none red",
    "convert none/of/these OUT --to open_clip",
    "export none/of/these OUT",
    "export RUN OUT --source none",
]


@pytest.fixture(scope="module")
def told(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, bool, str]]:
    """What each line ends with; all in one process, which must not import torch on the way."""
    place = tmp_path_factory.mktemp("early")
    (place / "image.jpg").write_bytes(b"no image: nobody gets as far as looking")
    places = {"RECIPE": run.recipe, "RUN": run.folder, "IMAGE": place / "image.jpg", "OUT": place / "out"}
    lines = LINES
    for mark, path in places.items():
        lines = [line.replace(mark, str(path)) for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(place / "out").exists()
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {line: (code, torch, text) for line, (_, code, torch, text) in zip(LINES, found, strict=True)}


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_word_is_told_without_torch(line: str, told: dict[str, tuple[int, bool, str]]) -> None:
    code, torch, text = told[line]
    assert code in (2, 3), text
    assert "Traceback" not in text
    assert not torch, text
