"""A checkpoint comes back as it was, and refuses to come back as anything else."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.export.small import small_model

from diptych.core.errors import IntegrityError, UsageError
from diptych.core.manifest import FileEntry, file_entry, read_manifest, write_manifest
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models import checkpoint, verification
from diptych.models.checkpoint import load, save
from diptych.models.model import Model
from diptych.models.towers.clip import meta_init
from diptych.models.towers.numerics import current_engine, numerics


def model(*, vision: str = "vit", seed: int = 0) -> Model:
    return small_model("resnet-no-pool" if vision == "resnet" else vision, seed=seed)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "vit"
    save(folder, model())
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def forge(folder: Path) -> None:
    """Write a fresh manifest over changed files, as somebody would who edits a checkpoint by hand."""
    old = read_manifest(folder)
    names = [path for path in sorted(folder.iterdir()) if path.name != "manifest.json"]
    outputs = tuple(file_entry(path, root=folder) for path in names)
    write_manifest(folder, type(old)(kind=old.kind, format=old.format, outputs=outputs))


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_a_model_comes_back_bit_for_bit(vision: str, tmp_path: Path) -> None:
    one = model(vision=vision)
    one.clip.train()
    save(tmp_path / "checkpoint", one)
    assert one.clip.training, "saving leaves the mode alone"
    other = load(tmp_path / "checkpoint")
    assert other.digest == one.digest
    assert other.config == one.config
    assert other.preprocess == one.preprocess
    assert other.provenance == {"recipe": "test"}
    pixels, tokens = torch.rand(2, 3, 32, 48), one.tokenize(["two red dogs", ""])
    assert torch.equal(one.encode_image(pixels), other.encode_image(pixels))
    assert torch.equal(one.encode_text(tokens), other.encode_text(tokens))
    assert all(parameter.requires_grad for parameter in other.clip.parameters())


def test_an_existing_checkpoint_is_replaced_only_on_request(copied: Path) -> None:
    with pytest.raises(UsageError):
        save(copied, model(seed=1))
    save(copied, model(seed=1), replace=True)
    assert load(copied).digest == model(seed=1).digest != model(seed=0).digest


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "reference_outputs.safetensors", "tokenizer.json"]
)
def test_every_damaged_file_is_named(copied: Path, name: str) -> None:
    path = copied / name
    data = path.read_bytes()
    place = len(data) // 2
    for damaged in (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], data[:-1], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(IntegrityError) as error:
            load(copied)
        assert name in str(error.value) and "to do:" in str(error.value)


def test_a_checkpoint_with_the_older_name_of_its_reference_outputs_loads(copied: Path) -> None:
    (copied / "reference_outputs.safetensors").rename(copied / "golden.safetensors")
    forge(copied)
    load(copied, check=True)
    tensors = load_file(copied / "golden.safetensors")
    save_file({**tensors, "text_embeds": -tensors["text_embeds"]}, copied / "golden.safetensors")
    forge(copied)
    with pytest.raises(IntegrityError, match="text tower"):
        load(copied)


@pytest.mark.parametrize(
    ("table", "setting", "value", "part"),
    [
        ("model", "activation", "gelu", "tower no longer gives"),
        ("model", "dropout", 0.1, "dropout"),
        ("preprocess", "mean", [0.5, 0.5, 0.5], "image tower"),
        ("preprocess", "resize", "squash", "preprocessing"),
        ("preprocess", "interpolation", "bilinear", "preprocessing"),
        ("preprocess", "size", [48, 32], "do not fit together"),
    ],
)
def test_another_setting_is_refused_even_under_a_fresh_manifest(
    copied: Path, table: str, setting: str, value: object, part: str
) -> None:
    path = copied / "config.json"
    config = json.loads(path.read_text())
    config[table][setting] = value
    path.write_text(json.dumps(config))
    forge(copied)
    with pytest.raises(IntegrityError, match=part):
        load(copied)


def test_another_tokenizer_is_refused_under_a_fresh_manifest(copied: Path) -> None:
    words = ["quite other words here", "with other pairs of letters"]
    Tokenizer.train(words * 20, size=540, context_length=16).save(copied)
    forge(copied)
    with pytest.raises(IntegrityError, match="tokenizer is not the one"):
        load(copied)


NAME = "text.blocks.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (lambda state: state.pop(NAME), NAME),
        (lambda state: state.update({"text.blocks.9.mlp.c_fc.weight": torch.zeros(2)}), "blocks.9"),
        (lambda state: state.update({NAME: state[NAME].t().contiguous()}), NAME),
        (lambda state: state.update({NAME: state[NAME].half()}), NAME),
        (lambda state: state[NAME].mul_(1.1), "text tower"),
        (
            lambda state: state.update(logit_scale=torch.tensor(float("nan"))),
            "model.safetensors: logit_scale",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    copied: Path, change: Callable[[Any], object], stated: str
) -> None:
    tensors = load_file(copied / "model.safetensors")
    change(tensors)
    save_file(tensors, copied / "model.safetensors")
    forge(copied)
    with pytest.raises(IntegrityError) as error:
        load(copied)
    assert stated in str(error.value)


def test_rubbish_weights_under_a_fresh_manifest_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"\xff" * 64)
    forge(copied)
    with pytest.raises(IntegrityError, match="cannot read the tensors"):
        load(copied)


def test_what_was_verified_is_verified_again_when_it_or_the_code_changes(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    stored, hashed = checkpoint.check_reference, verification.check_file

    def verifying(*given: object, **options: object) -> object:
        done.append("reference")
        return stored(*given, **options)  # type: ignore[arg-type]

    def hashing(folder: Path, entry: FileEntry) -> Path:
        done.append(entry.name)
        return hashed(folder, entry)

    monkeypatch.setattr(checkpoint, "check_reference", verifying)
    monkeypatch.setattr(verification, "check_file", hashing)

    def loading(**options: bool) -> set[str]:
        done.clear()
        load(copied, **options)  # type: ignore[arg-type]
        return set(done)

    everything = {entry.name for entry in read_manifest(copied).outputs} | {"reference"}
    assert loading() == everything
    assert loading() == set()
    assert loading(check=True) == everything
    (copied / "config.json").touch()
    assert loading() == {"config.json", "reference"}
    monkeypatch.setattr(verification, "_code", lambda: 1)
    assert loading() == {"reference"}
    with numerics("mkl" if current_engine() == "onednn" else "onednn"):
        assert loading() == {"reference"}


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_meta_init_has_every_tensor_and_no_number(vision: str) -> None:
    one = model(vision=vision)
    empty = meta_init(one.config)
    forms = {name: (tensor.shape, tensor.dtype) for name, tensor in empty.state_dict().items()}
    assert forms == {name: (tensor.shape, tensor.dtype) for name, tensor in one.clip.state_dict().items()}
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_meta_init_costs_no_imports() -> None:
    code = (
        "import sys; from diptych.models.towers.clip import meta_init;"
        "from diptych.models.towers.presets import preset;"
        "before = len(sys.modules); meta_init(preset('ViT-B-32')); assert len(sys.modules) < before + 50"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
