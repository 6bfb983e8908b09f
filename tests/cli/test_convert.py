"""`diptych convert`: another library's files, the parity report, and the ways it refuses."""

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run, call, done

from diptych.core.errors import UsageError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.formats.convert import Target, convert
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.presets import preset


def test_a_run_is_converted_there_and_back(run: Run, tmp_path: Path) -> None:
    said = done("convert", run.folder, tmp_path / "theirs", "--to", "open_clip")
    report = json.loads(said.out)
    assert report["token_ids_equal"] and report["image_embeds"]["max_difference"] == 0
    written = json.loads((tmp_path / "theirs" / "parity.json").read_text())
    assert report == {"out": str(tmp_path / "theirs"), **written}
    said = done("convert", tmp_path / "theirs", tmp_path / "ours", "--to", "diptych")
    for name in ("model.safetensors", "tokenizer.json", "reference_outputs.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (run.folder / "model" / name).read_bytes(), name


def test_the_commands_take_other_libraries_files(run: Run, tmp_path: Path) -> None:
    done("convert", run.folder, tmp_path / "theirs", "--to", "transformers")
    words = ("scenes:unseen?count=12&seed=2", "--task", "retrieval")
    ours, theirs = (call("evaluate", model, *words) for model in (run.folder, tmp_path / "theirs"))
    assert ours.code == theirs.code == 0, theirs.err
    assert json.loads(ours.out) == json.loads(theirs.out)


def test_refusals_do_not_point_at_each_other(tmp_path: Path) -> None:
    """README's small ResNet: each of three libraries sent its user to the next one."""
    tokenizer = Tokenizer.train(["a red square"], size=514, context_length=16)
    config = preset("resnet-micro-48").with_tokenizer(
        vocab_size=514, start_id=tokenizer.start_id, end_id=tokenizer.end_id, context_length=16
    )
    model = Model(build(config, seed=0), tokenizer, Preprocess(size=(48, 48)))
    targets: tuple[Target, ...] = ("open_clip", "transformers", "openai")
    for to in targets:
        with pytest.raises(UsageError) as caught:
            convert(model, tmp_path / to, to)
        assert "--to" not in caught.value.fix
        assert "checkpoint of diptych" in caught.value.fix


def test_what_cannot_be_converted_is_told(run: Run, tmp_path: Path) -> None:
    said = call("convert", run.folder, tmp_path / "out", "--to", "openai")
    assert said.code == 2 and "take --to open_clip or --to transformers" in said.err
    said = call("convert", "no/model/here", tmp_path / "out", "--to", "diptych")
    assert said.code == 2 and "no model by this name" in said.err
    (tmp_path / "evil.pt").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.")
    said = call("convert", tmp_path / "evil.pt", tmp_path / "out", "--to", "diptych")
    assert said.code == 5 and "evil.pt" in said.err and "to do:" in said.err
    assert not (tmp_path / "out").exists()
