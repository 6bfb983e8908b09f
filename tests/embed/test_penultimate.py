"""Features before the projection: they lead to the embeddings, in any batch, with bad images in place."""

from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.errors import UsageError
from diptych.core.records import Counts
from diptych.data.images.transforms import Preprocess
from diptych.data.synthetic.dataset import scene_pairs
from diptych.data.tokenizers.clip import Tokenizer
from diptych.embed.features import embed_images
from diptych.embed.penultimate import PenultimateTower
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig


def model_with(vision: VitConfig | ResNetConfig) -> Model:
    words = [pair.captions[0] for pair in scene_pairs(40, seed=0)]
    tokenizer = Tokenizer.train(words, size=600, context_length=24)
    text = TextConfig(24, tokenizer.vocab_size, 32, 2, 2, tokenizer.start_id, tokenizer.end_id)
    return Model(build(ClipConfig(16, vision, text), seed=1), tokenizer, Preprocess(size=(32, 32)))


def rows(model: Model, images: list[bytes], **options: Any) -> np.ndarray:
    return embed_images(PenultimateTower(model), images, preprocessing="exact", unit=False, **options)


VIT = VitConfig((32, 32), 8, 48, 2, 4)
RESNET = ResNetConfig((32, 32), (1, 1, 1, 1), 8, 4, stem_pool=False)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [pair.image for pair in scene_pairs(13, seed=3)]


@pytest.mark.parametrize(("vision", "width"), [(VIT, 48), (RESNET, 256)])
def test_the_projection_turns_them_into_the_embeddings(vision, width, files: list[bytes]) -> None:
    model = model_with(vision)
    found = rows(model, files)
    assert found.shape == (13, width)
    tower = model.clip.vision
    features = torch.from_numpy(found)
    with torch.no_grad():
        projected = features @ tower.proj if vision is VIT else tower.attnpool.c_proj(features)
    embeds = (projected / projected.norm(dim=1, keepdim=True)).numpy()
    assert np.abs(embeds - embed_images(model, files, preprocessing="exact")).max() < 1e-5
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 0.1  # as the tower gives them


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_do_not_matter_and_bad_images_keep_their_place(batch: int, files: list[bytes]) -> None:
    model, counts = model_with(VIT), Counts()
    found = rows(model, [*files[:3], b"broken", *files[3:]], batch_size=batch, counts=counts)
    assert np.isnan(found[3]).all()
    assert (counts.kept, sum(counts.dropped.values())) == (13, 1)
    whole = rows(model, files)
    assert np.abs(np.delete(found, 3, axis=0) - whole).max() < 1e-5
    assert rows(model, []).shape == (0, 48)


def test_exports_and_texts_are_refused() -> None:
    with pytest.raises(UsageError, match="exported"):
        PenultimateTower(object())
    with pytest.raises(UsageError, match="no texts"):
        PenultimateTower(model_with(VIT)).text_rows(np.zeros((1, 4), np.int64))
