"""Exported models: the same numbers as the original's, no torch, and damage is named."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.export.small import small_model

from diptych.core import machine as core_machine
from diptych.core.errors import (
    DataError,
    EnvironmentFault,
    IntegrityError,
    MissingPackageError,
    UnknownNameError,
    UsageError,
)
from diptych.core.manifest import Manifest, file_entry, read_manifest, write_manifest
from diptych.data.synthetic.dataset import scene_pairs
from diptych.evaluate.classifier import build_classifier
from diptych.export.onnx import export
from diptych.models import verification
from diptych.models.encode import encode_images, encode_texts
from diptych.models.model import Model
from diptych.models.runtimes import engines as runtimes
from diptych.models.runtimes import exported as exports
from diptych.models.runtimes.engines import Plan
from diptych.models.runtimes.exported import ExportedModel, load_exported

BACKENDS = ["onnx", *(["openvino"] if find_spec("openvino") else [])]


@pytest.fixture(scope="module")
def original() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def written(original: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "out"
    export(original, folder)
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns(verification.CACHE_NAME)
    return Path(shutil.copytree(written, tmp_path / "copy", ignore=ignored))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_whole_path_from_files_to_scores_is_the_models(
    original: Model, written: Path, backend: str
) -> None:
    exported = load_exported(written, backend)
    files = [pair.image for pair in scene_pairs(9, seed=3)]
    texts = ["two dogs", "", "a red circle above a blue square " * 9, "two dogs"]
    for encode, given in ((encode_images, [*files, b"no image"]), (encode_texts, texts)):
        ours, theirs = encode(exported, given), encode(original, given)  # type: ignore[operator]
        assert ours.dtype == np.float32
        assert np.nanmax(np.abs(ours - theirs)) < 1e-5
        assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    ours, theirs = (build_classifier(one, ["dog", "circle"]) for one in (exported, original))  # type: ignore[arg-type]
    assert np.abs(ours - theirs).max() < 1e-5
    assert exported.scale == pytest.approx(original.scale)
    assert exported.digest == original.digest, "rows of both may be compared"
    assert exported.config == original.config and exported.preprocess == original.preprocess
    assert dict(exported.provenance) == original.provenance


def test_arrays_and_tensors_go_in_and_come_out(original: Model, written: Path) -> None:
    exported = load_exported(written, "onnx")
    images = [Image.new("RGB", (90, 40), "red"), Image.new("L", (30, 70), 9)]
    pixels = exported.preprocess_images(images)
    expected = original.preprocess_images(images)
    assert np.abs(pixels - expected.numpy()).max() < 1e-6
    array, tensor = (exported.encode_image(given, normalize=True) for given in (pixels, expected))
    assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
    assert (tensor - original.encode_image(expected, normalize=True)).abs().max() < 1e-5
    assert np.abs(array - tensor.numpy()).max() < 1e-6
    tokens = exported.tokenize(["two dogs", "a"])
    assert np.array_equal(tokens, original.tokenize(["two dogs", "a"]).numpy())
    features = exported.encode_text(tokens)
    assert np.abs(features - original.encode_text(torch.from_numpy(tokens)).numpy()).max() < 1e-4
    assert exported.encode_text(tokens[:0]).shape == (0, 48) == exported.encode_image(pixels[:0]).shape


def test_what_the_towers_cannot_read_is_refused(written: Path) -> None:
    exported = load_exported(written, "onnx")
    with pytest.raises(UsageError, match="cannot read"):
        exported.encode_image(np.zeros((1, 3, 48, 32), np.float32))
    tokens = exported.tokenize(["a", "two dogs"])
    with pytest.raises(DataError, match="no end token"):
        exported.encode_text(np.where(tokens == exported.config.text.end_id, 7, tokens))
    end = np.full((2, 1), exported.config.text.end_id)
    long = np.concatenate([tokens[:, :1], np.full((2, 15), 5), end], axis=1)
    with pytest.raises(DataError, match="17 tokens"):
        exported.encode_text(long)
    with pytest.raises(UsageError, match="CPU"):
        exported.to("cuda")


def test_the_first_embedding_needs_no_torch(written: Path) -> None:
    code = (
        "import sys; from diptych.models.runtimes.exported import load_exported;"
        "m = load_exported(sys.argv[1], 'onnx');"
        "from diptych.models.encode import encode_texts; assert encode_texts(m, ['a']).shape == (1, 48);"
        "from PIL import Image; m.encode_image(m.preprocess_images([Image.new('RGB', (9, 9))]));"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(written)], check=True)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("image.onnx", "flip"), ("image.onnx", "truncate"), ("text.onnx", "remove"), ("config.json", "flip"),
     ("reference_outputs.safetensors", "truncate"), ("tokenizer.json", "remove")],
)  # fmt: skip
def test_every_damaged_file_is_named_even_after_a_good_load(copied: Path, name: str, damage: str) -> None:
    load_exported(copied, "onnx")
    path = copied / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(IntegrityError) as error:
        load_exported(copied, "onnx")
    assert name in str(error.value) and "to do:" in str(error.value)


def forge(folder: Path) -> None:
    """Write a fresh manifest over changed files."""
    own = ("manifest.json", "verification_cache.json")
    outputs = [file_entry(path, root=folder) for path in sorted(folder.iterdir()) if path.name not in own]
    write_manifest(folder, Manifest("export", outputs=tuple(outputs)))


@pytest.mark.parametrize(
    ("change", "part"),
    [("weights", "image tower"), ("mean", "image tower"), ("resize", "preprocessing"), ("text", "text tower"),
     ("rubbish", "cannot open the tower"), ("tokenizer", "tokenizer is not the one"), ("key", "description"),
     ("format", "cannot read the description")],
)  # fmt: skip
def test_parts_that_do_not_belong_together_are_refused_under_a_fresh_manifest(
    copied: Path, tmp_path: Path, change: str, part: str
) -> None:
    config = json.loads((copied / "config.json").read_text())
    if change in ("weights", "text"):
        export(small_model(seed=1), tmp_path / "other")
        name = "image.onnx" if change == "weights" else "text.onnx"
        shutil.copy(tmp_path / "other" / name, copied / name)
    elif change == "mean":
        config["preprocess"]["mean"] = [0.5, 0.5, 0.5]
    elif change == "resize":
        config["preprocess"]["resize"] = "squash"
    elif change == "rubbish":
        (copied / "image.onnx").write_bytes(b"\x08" * 99)
    elif change == "tokenizer":
        config["tokenizer_sha256"] = "0" * 64
    elif change == "key":
        config["surprise"] = 1
    else:
        config["format"] = 2
    (copied / "config.json").write_text(json.dumps(config))
    forge(copied)
    with pytest.raises(IntegrityError, match=part):
        load_exported(copied, "onnx")


def test_what_was_checked_once_is_not_checked_again_until_it_is_touched(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    real, tried = verification.check_file, exports.check_reference

    def counting(folder: Path, entry: object) -> Path:
        checked.append(entry.name)  # type: ignore[attr-defined]
        return real(folder, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "check_file", counting)

    def verifying(*given: Any, **options: Any) -> Any:
        checked.append("reference")
        return tried(*given, **options)

    monkeypatch.setattr(exports, "check_reference", verifying)

    def loading(**options: bool) -> set[str]:
        checked.clear()
        load_exported(copied, "onnx", **options)  # type: ignore[arg-type]
        return set(checked)

    everything = {entry.name for entry in read_manifest(copied).outputs} | {"reference"}
    assert loading() == everything
    assert loading() == set()
    assert loading(verify=True) == everything
    os.utime(copied / "text.onnx")
    assert loading() == {"text.onnx", "reference"}
    for rubbish in ("{", '{"files": 3}', '{"files": {"image.onnx": ["x"]}, "cosines": {}}', "[]"):
        (copied / "verification_cache.json").write_text(rubbish)
        assert loading() == everything


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise EnvironmentFault("no")

    monkeypatch.setattr(verification, "write_json", refuse)
    assert load_exported(copied, "onnx").encode_text(np.array([[538, 539]]), normalize=True).shape == (1, 48)
    assert not (copied / "verification_cache.json").exists()


@pytest.mark.parametrize(
    ("cosines", "chosen"),
    [([1.0, 1.0, 1.0], 0), ([0.9998, 1.0, 1.0], 1), ([0.9998, 0.9, 1.0], 2), ([0.9999, 1.0, 1.0], 0)],
)
def test_auto_takes_the_first_plan_that_keeps_the_cosine_and_checks_it_once(
    copied: Path, monkeypatch: pytest.MonkeyPatch, cosines: list[float], chosen: int
) -> None:
    plans = [Plan("onnx", "float32"), Plan("onnx", "bfloat16"), Plan("openvino", "bfloat16")]
    tries: list[Plan] = []

    def checking(model: ExportedModel, *_: object, **__: object) -> dict[str, float]:
        tries.append(model.plan)
        return {"image": 1.0, "text": cosines[plans.index(model.plan)]}

    monkeypatch.setattr(exports, "plans", lambda *_, **__: plans)
    monkeypatch.setattr(exports, "version", lambda _: "1")
    monkeypatch.setattr(exports, "check_reference", checking)
    assert load_exported(copied).plan == plans[chosen]
    assert load_exported(copied).plan == plans[chosen]
    assert tries == plans[: chosen + 1]


ONNX, OPENVINO, OPENVINO_BF16 = ("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")


@pytest.mark.parametrize(
    ("flags", "files", "offered"),
    [
        ({"avx2"}, "float32", [ONNX, OPENVINO]),
        ({"avx2"}, "int8", [ONNX, OPENVINO]),
        ({"avx2", "avx512f", "avx512_vnni"}, "int8", [OPENVINO, ONNX]),
        ({"avx2", "avx512f", "avx512_vnni"}, "float32", [ONNX, OPENVINO]),
        ({"avx2", "avx512_vnni", "avx512_bf16"}, "int8", [OPENVINO_BF16, OPENVINO, ONNX]),
        ({"amx_bf16", "amx_int8"}, "float16", [OPENVINO_BF16, OPENVINO, ONNX]),
        (set(), "float32", [ONNX, OPENVINO]),
    ],
)
def test_the_processor_decides_the_order_of_runtimes(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], files: str, offered: list[tuple[str, str]]
) -> None:
    def order(precision: Any = None) -> list[tuple[str, str]]:
        plans = runtimes.plans("auto", precision, 2, files=files)
        return [(plan.backend, plan.precision) for plan in plans]

    monkeypatch.setattr(runtimes, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(runtimes, "find_spec", lambda _: True)
    assert order() == offered
    assert order("float32") == [plan for plan in offered if plan[1] == "float32"]
    monkeypatch.setattr(runtimes, "find_spec", lambda name: name == "onnxruntime")
    assert order() == [ONNX]
    monkeypatch.setattr(runtimes, "find_spec", lambda _: False)
    with pytest.raises(MissingPackageError, match="no runtime"):
        order()


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_on_a_processor_without_it_is_computed_with_a_warning(
    original: Model, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(core_machine, "multiplies_bfloat16", lambda: native)
    monkeypatch.setattr(runtimes, "find_spec", lambda _: True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plans = runtimes.plans("auto", "bfloat16", None, files="float32")
        small_model().compute_in("bfloat16")
        original.encode(["two dogs"], precision="bfloat16")
    assert plans == [Plan("openvino", "bfloat16")]
    slower = ["7 times slower" in str(warning.message) for warning in caught]
    assert slower == [] if native else slower == [True] * 3


def test_backends_that_are_not_there_are_told(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="export"):
        load_exported(tmp_path)
    with pytest.raises(UnknownNameError, match="openvino"):
        load_exported(written, "openvin")
    with pytest.raises(UsageError, match="float32"):
        load_exported(written, "onnx", precision="bfloat16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'diptych\[onnx\]'"):
        load_exported(written, "onnx", verify=True)


def test_threads_follow_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Plan("onnx").threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "rubbish")
    assert Plan("onnx").threads >= 1
