"""Every Python block of docs/preprocessing.md runs, in order, on a small model and a few photos."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.conftest import blocks
from tests.data.odd_files import odd_files, rgb

import diptych
from diptych.core.errors import Reason
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "preprocessing.md").read_text(encoding="utf-8")


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = Tokenizer.train(["a red heart"] * 9, size=520, context_length=12)
    text = TextConfig(12, words.vocab_size, 32, 1, 2, words.start_id, words.end_id)
    config = ClipConfig(24, ResNetConfig((32, 32), (1, 1, 1, 1), 8, 4, stem_pool=False), text)
    model = diptych.Model(diptych.build(config, seed=0), words, Preprocess(size=(32, 32)))
    diptych.save("my-model", model)
    Path("photos").mkdir()
    for name, data in odd_files().items():
        if name.endswith("chroma.jpg") or name == "progressive.jpg":
            (Path("photos") / name).write_bytes(data)
    rgb(400, 300).save("photos/large.jpg")
    names: dict[str, Any] = {}
    for code in blocks(PAGE, "python"):
        exec(compile(code, "preprocessing.md", "exec"), names)
    assert len(names["files"]) == 3
    assert 0.999 < float(capsys.readouterr().out.splitlines()[0]) <= 1 + 1e-6
    assert names["scaled"].shape == (3, 24) and not np.array_equal(names["scaled"], names["exact"])
    assert names["rows"].shape == (3, 24) and np.isnan(names["rows"][1]).all()
    assert torch.allclose(names["features"][0], torch.from_numpy(model.encode(names["files"][0])), atol=1e-5)
    assert names["batch"].shape == (3, 224, 224)
    assert f"{{1: {Reason.UNREADABLE_IMAGE!r}}}" in PAGE
