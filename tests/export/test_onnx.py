"""An exported model gives what the model gives, in another runtime, for any batch and any length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from tests.cli.conftest import Said
from tests.export.small import small_model
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import IntegrityError, UnknownNameError
from diptych.core.manifest import read_manifest, verify
from diptych.data.sources.open import open_source
from diptych.data.synthetic.dataset import scene_pairs
from diptych.export import onnx as exporting
from diptych.export.onnx import export, graphs
from diptych.models.checkpoint import save
from diptych.models.encode import encode_texts
from diptych.models.model import Model
from diptych.models.runtimes.exported import load_exported

KINDS = [("vit", "quick_gelu"), ("vit", "gelu"), ("resnet", "gelu"), ("resnet-no-pool", "quick_gelu")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = small_model(request.param[0], activation=request.param[1])
    folder = tmp_path_factory.mktemp("exports") / "out"
    export(model, folder)
    return model, folder


def run(path: Path, given: Tensor) -> Tensor:
    """Run one file with onnxruntime itself."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: given.numpy()})[0])


def furthest(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return (F.normalize(found, dim=-1) - F.normalize(expected, dim=-1)).abs().max().item()


def test_images_in_any_batch(written: tuple[Model, Path]) -> None:
    model, folder = written
    for batch in (1, 3, 32):
        generator = torch.Generator().manual_seed(batch)
        pixels = torch.randn(batch, 3, *model.config.vision.image_size, generator=generator)
        assert furthest(run(folder / "image.onnx", pixels), model.encode_image(pixels)) < 1e-5


def test_texts_in_any_batch_and_length(written: tuple[Model, Path]) -> None:
    """Texts of every length side by side, behind which anything may stand, end tokens too."""
    model, folder = written
    text = model.config.text
    for batch, length in ((1, 2), (1, 16), (3, 5), (32, 16), (32, 9)):
        generator = torch.Generator().manual_seed(batch * length)
        tokens = torch.randint(1, 500, (batch, length), generator=generator)
        ends = torch.randint(1, length, (batch,), generator=generator)
        ends[0] = length - 1
        tokens[:, 0] = text.start_id
        tokens[torch.arange(batch), ends] = text.end_id
        tokens[:, -1] = text.end_id
        assert furthest(run(folder / "text.onnx", tokens), model.encode_text(tokens)) < 1e-5


def test_padding_changes_nothing(written: tuple[Model, Path]) -> None:
    model, folder = written
    tokens = model.tokenize(["two dogs", "a red circle", ""])
    longest = int((tokens == model.config.text.end_id).int().argmax(dim=1).max()) + 1
    cut, padded = (run(folder / "text.onnx", given) for given in (tokens[:, :longest].contiguous(), tokens))
    assert torch.equal(cut, padded)


def test_files_are_standard_and_say_what_they_take(written: tuple[Model, Path]) -> None:
    model, folder = written
    for name, shape in (
        ("image.onnx", ["batch", 3, *model.config.vision.image_size]),
        ("text.onnx", ["batch", "length"]),
    ):
        file = onnx.load(folder / name)
        onnx.checker.check_model(file, full_check=True)
        assert {opset.domain for opset in file.opset_import} == {""}
        given = file.graph.input[0].type.tensor_type.shape.dim
        assert [axis.dim_param or axis.dim_value for axis in given] == shape
    assert verify(folder) == read_manifest(folder, "export")


def test_the_same_model_gives_the_same_bytes() -> None:
    one, other = (graphs(small_model())["text.onnx"].SerializeToString() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("vision", ["vit", "resnet"])
@pytest.mark.parametrize(("precision", "share", "floor"), [("float16", 0.6, 0.99999), ("int8", 0.6, 0.99)])
def test_smaller_files_state_the_cosine_that_they_keep(
    vision: str, precision: Any, share: float, floor: float, tmp_path: Path
) -> None:
    """The statement is recomputed here from the files, by another formula."""
    model = small_model(vision, activation="gelu")
    full, small = tmp_path / "full", tmp_path / "small"
    export(model, full)
    receipt = export(model, small, precision=precision)
    assert (small / "image.onnx").stat().st_size < share * (full / "image.onnx").stat().st_size
    exported = load_exported(small, "onnx")
    told = exported.description.parity
    assert told == receipt.extra["parity"]
    pairs = list(scene_pairs(60, seed=2026, split="test"))
    texts = [pair.captions[0] for pair in pairs]
    stored = exported.description.captions
    ours, theirs = (
        np.concatenate([encode_texts(one, stored), encode_texts(one, texts)]).astype(np.float64)  # type: ignore[arg-type]
        for one in (exported, model)
    )
    cosines = (ours * theirs).sum(1)
    away = theirs.mean(0)
    centered = [
        np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
        for a, b in zip(ours - away, theirs - away, strict=True)
    ]
    assert told["text"]["cosine_min"] == pytest.approx(cosines.min(), abs=2e-4)
    assert told["text"]["cosine_mean"] == pytest.approx(cosines.mean(), abs=2e-4)
    assert told["text"]["centered_cosine_mean"] == pytest.approx(np.mean(centered), abs=2e-3)
    assert floor <= told["text"]["reference_cosine_min"] <= 1
    assert floor <= told["image"]["reference_cosine_min"] <= 1
    assert precision == "float16" or told["text"]["cosine_min"] < 0.99999


@pytest.mark.parametrize("vision", ["vit", "vit-32"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_parity_is_measured_on_the_same_pixels(vision: str, precision: Any, tmp_path: Path) -> None:
    """Photos that have to be resized, and a tower so small that the package's own scenes have to be."""
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    for number, size in enumerate([(640, 480), (500, 700), (333, 250), (90, 70)]):
        noise = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        noise.resize(size, Image.Resampling.BICUBIC).save(photos / f"{number}.jpg", quality=80)
        (photos / f"{number}.txt").write_text("a photo")
    model = small_model(vision)
    parity = export(model, tmp_path / "out", precision=precision, source=open_source(str(photos))).extra
    exported = load_exported(tmp_path / "out", "onnx")
    pixels = [model.preprocess(Image.open(photos / f"{number}.jpg")) for number in (1, 3)]
    one, other = (
        F.normalize(torch.as_tensor(part.encode_image(torch.stack(pixels))), dim=-1)
        for part in (exported, model)
    )
    told = parity["parity"]["image"]
    assert told["count"] == 4 + 60 + 2
    assert told["largest_difference"] >= (one - other).abs().max().item() * 0.99
    assert told["largest_difference"] < {"float32": 1e-5, "float16": 1e-3}[precision]
    assert told["cosine_min"] > 0.999995


def test_zero_shot_change_is_stated_where_there_are_labels(tmp_path: Path) -> None:
    source = open_source("scenes:unseen?count=12&seed=1")
    receipt = export(small_model(), tmp_path / "out", precision="int8", source=source, labels="label")
    told = receipt.extra["zero_shot"]
    assert told["images"] == 12 and told["original"].keys() == told["exported"].keys() != set()
    assert receipt.extra["parity"]["image"]["count"] == 4 + 60 + 6


def test_a_wrong_graph_is_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"vit": lambda part, config, pixels: exporting.vit(part, config, part.graph.add("Relu", pixels))}
    monkeypatch.setattr(exporting, "VISION", wrong)
    with pytest.raises(IntegrityError, match="exported image tower"):
        export(small_model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_towers_beyond_the_limit_of_one_file_keep_their_weights_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MAX_FILE_BYTES", 100_000)
    model = small_model()
    export(model, tmp_path / "out")
    assert (tmp_path / "out" / "image.onnx.data").is_file()
    verify(tmp_path / "out")
    pixels = torch.randn(2, 3, *model.config.vision.image_size)
    assert furthest(run(tmp_path / "out" / "image.onnx", pixels), model.encode_image(pixels)) < 1e-5


def test_what_cannot_be_exported_is_said(diptych: Callable[..., Said], tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="float16"):
        export(small_model(), tmp_path / "out", precision="fp16")  # type: ignore[arg-type]
    save(tmp_path / "model", small_model())
    for words, message in (
        ([tmp_path / "model"], "not empty"),
        ([tmp_path / "o", "--labels", "x"], "--source"),
    ):
        said = diptych("export", tmp_path / "model", *words)
        assert said.code == 2 and message in said.err
