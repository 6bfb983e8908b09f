"""Model.encode: every kind of input, in order, bad ones told by position, and nothing lost."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.core.errors import BadInputsError, Reason, SettingsError, UnknownNameError, UsageError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.encode import encode_images, encode_texts
from diptych.models.model import Model
from diptych.models.towers.clip import build, unit_length
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig

WORDS = Tokenizer.train(["a red circle above a blue square"] * 9, size=530, context_length=12)
TEXT = TextConfig(12, WORDS.vocab_size, 32, 1, 2, WORDS.start_id, WORDS.end_id)
CONFIG = ClipConfig(24, ResNetConfig((32, 32), (1, 1, 1, 1), 8, 4, stem_pool=False), TEXT)
CAPTIONS = ["a red circle", "a blue square above a red circle", "", "a red circle"]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(build(CONFIG, seed=0), WORDS, Preprocess(size=(32, 32)))


def image(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    image(seed).save(buffer, "PNG")
    return buffer.getvalue()


def image_row(model: Model, image: Image.Image) -> np.ndarray:
    """Return what the towers make of one image on open_clip's way: preprocess, stack, encode."""
    return model.encode_image(model.preprocess(image)[None])[0].numpy()


def text_row(model: Model, text: str) -> np.ndarray:
    return model.encode_text(model.tokenize(text))[0].numpy()


def image_file(folder: Path) -> Path:
    (folder / "one.png").write_bytes(png(1))
    return folder / "one.png"


KINDS: dict[str, Callable[[Path], Any]] = {
    "pillow": lambda folder: image(1),
    "bytes": lambda folder: png(1),
    "bytearray": lambda folder: bytearray(png(1)),
    "memoryview": lambda folder: memoryview(png(1)),
    "path": image_file,
    "data url": lambda folder: "data:image/png;base64," + base64.b64encode(png(1)).decode(),
    "array": lambda folder: np.asarray(image(1)),
}


def test_every_kind_of_image_gives_the_row_of_that_image(model: Model, tmp_path: Path) -> None:
    expected = image_row(model, image(1))
    for kind, make in KINDS.items():
        given = make(tmp_path)
        single = model.encode(given)
        assert single.shape == (24,) and single.dtype == np.float32
        assert np.abs(single - expected).max() < 1e-5, kind
        assert np.array_equal(model.encode([given]), single[None])


def test_grey_and_alpha_arrays_are_images_and_a_stack_of_them_is_many(model: Model) -> None:
    for mode in ("L", "RGBA"):
        converted = image(2).convert(mode)
        row = model.encode(np.asarray(converted))
        assert np.abs(row - image_row(model, converted)).max() < 1e-5
    grey = np.asarray(image(2).convert("L"))
    assert np.array_equal(model.encode(grey), model.encode(grey[..., None]))
    stack = np.stack([np.asarray(image(seed)) for seed in range(3)])
    assert np.array_equal(model.encode(stack), model.encode(list(stack)))


def test_mixed_inputs_keep_their_order(model: Model) -> None:
    images = {1: png(3), 3: image(4), 5: png(5)}
    texts = dict(zip((0, 2, 4, 6), CAPTIONS, strict=True))
    rows_of = {row: image_row(model, image(seed)) for row, seed in ((1, 3), (3, 4), (5, 5))}
    rows_of |= {row: text_row(model, text) for row, text in texts.items()}
    inputs, expected = ([both[row] for row in range(7)] for both in (images | texts, rows_of))
    for batch_size in (1, 2, 32):
        rows = model.encode(inputs, batch_size)
        assert rows.shape == (7, 24)
        assert np.abs(rows - np.stack(expected)).max() < 1e-5
        assert np.array_equal(rows[0], rows[6])
        assert np.array_equal(model.encode(iter(inputs), batch_size), rows)


def test_a_str_is_a_text_even_if_it_names_a_file(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("red.png").write_bytes(png(1))
    row = model.encode("red.png")
    assert np.abs(row - text_row(model, "red.png")).max() < 1e-5
    assert np.abs(model.encode("data: a red circle") - text_row(model, "data: a red circle")).max() < 1e-5
    assert np.array_equal(model.encode(np.array(CAPTIONS)), model.encode(CAPTIONS))


def test_rows_are_cut_then_normalised(model: Model) -> None:
    inputs = [*CAPTIONS, image(1)]
    raw = model.encode(inputs)
    unit = model.encode(inputs, normalize_embeddings=True, truncate_dim=10)
    expected = raw[:, :10] / np.linalg.norm(raw[:, :10], axis=1, keepdims=True)
    assert np.abs(unit - expected).max() < 1e-6
    assert np.array_equal(model.encode(inputs, truncate_dim=10), raw[:, :10])
    with pytest.raises(SettingsError, match="1 to 24"):
        model.encode(inputs, truncate_dim=25)


def test_tensors_come_back_when_asked_for_and_nothing_gives_no_rows(model: Model) -> None:
    rows = model.encode(CAPTIONS, convert_to_numpy=False, device="cpu")
    assert isinstance(rows, torch.Tensor) and rows.shape == (4, 24)
    assert np.array_equal(rows.numpy(), model.encode(CAPTIONS))
    assert model.encode([]).shape == (0, 24)


def test_bulk_rows_are_those_of_encode(model: Model) -> None:
    images: list[Any] = [png(seed) for seed in range(5)]
    for bulk, given in ((encode_images, images), (encode_texts, CAPTIONS)):
        assert np.abs(model.encode(given, normalize_embeddings=True) - bulk(model, given)).max() < 1e-6


def test_bad_images_are_named_by_position_and_the_others_kept(model: Model, tmp_path: Path) -> None:
    inputs = [
        "a red circle", png(1), b"no image", image(2), png(3)[:60], tmp_path / "gone.jpg",
        "data:image/png;base64,*", png(4),
    ]  # fmt: skip
    good, bad = [0, 1, 3, 7], [2, 4, 5, 6]
    with pytest.raises(BadInputsError, match="input 2, input 4, input 5, input 6") as caught:
        model.encode(inputs, batch_size=2)
    assert caught.value.reasons == {
        2: Reason.UNREADABLE_IMAGE, 4: Reason.TRUNCATED_IMAGE, 5: Reason.MISSING_IMAGE,
        6: Reason.UNREADABLE_IMAGE,
    }  # fmt: skip
    rows = model.encode(inputs, batch_size=2, on_bad="nan")
    assert np.isnan(rows[bad]).all()
    assert np.abs(rows[good] - model.encode([inputs[place] for place in good])).max() < 1e-5
    assert np.array_equal(caught.value.embeddings, rows, equal_nan=True)


def test_a_image_that_was_opened_but_cannot_be_decoded_is_a_bad_input(model: Model) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    cut = Image.open(io.BytesIO(buffer.getvalue()[:4000]))
    with pytest.raises(BadInputsError, match="input 1"):
        model.encode([image(0), cut])


@pytest.mark.parametrize(
    "wrong",
    [3, None, {"image": b""}, torch.zeros(3, 32, 32), np.zeros((40, 36, 3)), np.zeros((40, 36, 2), np.uint8)],
)
def test_what_is_neither_text_nor_image_is_refused_before_anything_is_computed(
    model: Model, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "encode_batch", None)
    with pytest.raises(UsageError, match=r"neither a text nor an image[\s\S]*input 1"):
        model.encode(["a red circle", wrong])


def test_unknown_options_name_the_nearest(model: Model) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'precision'"):
        model.encode("a", precison="bfloat16")


def test_half_precision_stays_close(model: Model) -> None:
    inputs = [*CAPTIONS, *(png(seed) for seed in range(4))]
    half = model.encode(inputs, precision="bfloat16", normalize_embeddings=True)
    full = model.encode(inputs, normalize_embeddings=True)
    assert half.dtype == np.float32
    assert 0.99 < (half * full).sum(axis=1).min() < 1


def test_progress_is_told_on_standard_error(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.encode([*CAPTIONS, png(1)], show_progress_bar=True)
    assert "encoding: 5 of 5" in capsys.readouterr().err
    model.encode(CAPTIONS)
    assert capsys.readouterr().err == ""


def test_logits_are_scaled_cosines_plus_the_bias(model: Model) -> None:
    images, texts = [image(1), png(2), image(3)], CAPTIONS[:2]
    a, b = (model.encode(x, normalize_embeddings=True) for x in (images, texts))
    expected = np.exp(CONFIG.logit_scale_init) * a @ b.T
    found = model.logits(images, texts)
    assert found.shape == (3, 2) and found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 1e-4
    pixels = model.preprocess_images([image(1)])
    assert np.abs(model.logits(pixels, model.tokenize(texts)).numpy() - expected[:1]).max() < 1e-4
    assert model.logits(image(1), "a red circle").shape == (1, 1)
    biased = Model(build(replace(CONFIG, logit_bias_init=-7.5), seed=0), WORDS, model.preprocess)
    assert (model.bias, biased.bias) == (0, -7.5)
    assert np.abs(biased.logits(images, texts).numpy() - (expected - 7.5)).max() < 1e-4


def test_features_are_normalized_on_request(model: Model) -> None:
    pixels, tokens = model.preprocess_images([image(1)]), model.tokenize("a red circle")
    for encode, given in ((model.encode_image, pixels), (model.encode_text, tokens)):
        assert torch.equal(unit_length(encode(given)), encode(given, normalize=True))
