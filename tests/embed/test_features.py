"""Bulk encoding: order, batches, unreadable files, modes, rows before the projection; pairs with columns."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.core.errors import Reason
from diptych.core.records import Counts
from diptych.data.images.transforms import Preprocess
from diptych.data.synthetic.dataset import scene_pairs
from diptych.data.tokenizers.clip import Tokenizer
from diptych.embed.features import embed_pairs
from diptych.models.encode import EncodeSettings, encode_images, encode_texts
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig

CAPTIONS = ["a cat", "a photo of a very long sentence about nothing in particular", "a cat", "", "two dogs"]
VIT = VitConfig((32, 32), 8, 48, 2, 4)
RESNET = ResNetConfig((32, 32), (1, 1, 1, 1), 8, 4, stem_pool=False)


def model_with(vision: VitConfig | ResNetConfig) -> Model:
    words = [pair.captions[0] for pair in scene_pairs(60, seed=0)]
    tokenizer = Tokenizer.train(words, size=600, context_length=24)
    text = TextConfig(24, tokenizer.vocab_size, 32, 2, 2, tokenizer.start_id, tokenizer.end_id)
    return Model(build(ClipConfig(16, vision, text), seed=1), tokenizer, Preprocess(size=(32, 32)))


@pytest.fixture(scope="module")
def model() -> Model:
    """A ResNet tower, because its BatchNorm would notice the wrong mode; weights as they start."""
    return model_with(RESNET)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [pair.image for pair in scene_pairs(13, seed=3)]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_images_are_the_same_in_any_batch_and_with_any_number_of_threads(
    model: Model, files: list[bytes], batch_size: int
) -> None:
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    with torch.no_grad():
        features = model.encode_image(model.preprocess_images(images))
    expected = (features / features.norm(dim=1, keepdim=True)).numpy()
    for workers in (1, 3):
        embeds = encode_images(model, files, batch_size=batch_size, settings=EncodeSettings(workers=workers))
        assert embeds.dtype == np.float32
        assert np.abs(embeds - expected).max() < 1e-5
    assert np.abs(encode_images(model, images) - expected).max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_texts_keep_their_order_whatever_the_buckets(model: Model, batch_size: int) -> None:
    with torch.no_grad():
        features = model.encode_text(model.tokenize(CAPTIONS))
    expected = (features / features.norm(dim=1, keepdim=True)).numpy()
    embeds = encode_texts(model, CAPTIONS, batch_size=batch_size)
    assert np.abs(embeds - expected).max() < 1e-5
    assert np.array_equal(embeds[0], embeds[2])
    assert encode_texts(model, []).shape == encode_images(model, []).shape == (0, 16)


def test_texts_are_embedded_once_and_in_length_buckets(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    encode = model.encode_text
    monkeypatch.setattr(
        model, "encode_text", lambda tokens: shapes.append(tuple(tokens.shape)) or encode(tokens)
    )
    encode_texts(model, CAPTIONS * 100, batch_size=2)
    assert sum(rows for rows, _ in shapes) == 4
    assert shapes[0][1] < shapes[-1][1] <= 24


@pytest.mark.parametrize("output", ["embeds", "penultimate"])
def test_an_unreadable_image_keeps_its_row_and_is_counted(
    output: Any, model: Model, files: list[bytes]
) -> None:
    broken = [files[0], b"not an image", files[1], files[2][: len(files[2]) // 2]]
    counts = Counts()
    embeds = encode_images(model, broken, batch_size=2, counts=counts, output=output)
    assert np.isnan(embeds).all(axis=1).tolist() == [False, True, False, True]
    assert (counts.seen, counts.kept, counts.dropped.total()) == (4, 2, 2)
    assert counts.examples[Reason.UNREADABLE_IMAGE] == ["image 1"]
    assert np.abs(embeds[2] - encode_images(model, [files[1]], output=output)[0]).max() < 1e-5
    assert encode_images(model, [], output=output).shape == (0, embeds.shape[1])


def test_pairs_keep_captions_and_columns_beside_their_rows(model: Model) -> None:
    class Drawn:
        name = "drawn"

        def pairs(self, counts: Counts):
            counts.drop(Reason.BAD_ROW, "row 0")
            yield from scene_pairs(5, seed=9)

        def inputs(self):
            return ()

    embedded = embed_pairs(model, Drawn(), batch_size=2)
    drawn = list(scene_pairs(5, seed=9))
    assert embedded.keys == tuple(pair.key for pair in drawn)
    assert embedded.captions == tuple(pair.captions for pair in drawn)
    assert [dict(fields) for fields in embedded.fields] == [dict(pair.fields) for pair in drawn]
    assert embedded.image_embeds.shape == (5, 16)
    assert (embedded.counts.seen, embedded.counts.kept) == (6, 5)


@pytest.mark.parametrize(("vision", "width"), [(VIT, 48), (RESNET, 256)])
def test_the_projection_turns_penultimate_rows_into_embeddings(vision, width, files: list[bytes]) -> None:
    model = model_with(vision)
    rows = encode_images(model, files, output="penultimate")
    assert rows.shape == (13, width)
    tower, features = model.clip.vision, torch.from_numpy(rows)
    with torch.no_grad():
        projected = features @ tower.proj if vision is VIT else tower.attnpool.c_proj(features)
    embeds = (projected / projected.norm(dim=1, keepdim=True)).numpy()
    assert np.abs(embeds - encode_images(model, files)).max() < 1e-5
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 0.1  # as the tower gives them
