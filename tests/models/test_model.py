"""The user's view of a model: pictures and texts in, features out."""

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.core.errors import SettingsError
from diptych.data.images import Preprocess
from diptych.data.tokenizer import Tokenizer
from diptych.models.clip import build
from diptych.models.config import ClipConfig, ResNetConfig, TextConfig
from diptych.models.model import Model

WORDS = Tokenizer.train(["a red circle above a blue square"] * 9, size=530, context_length=12)
TEXT = TextConfig(12, WORDS.vocab_size, 32, 1, 2, WORDS.start_id, WORDS.end_id)
CONFIG = ClipConfig(24, ResNetConfig((32, 32), (1, 1, 1, 1), 8, 4, stem_pool=False), TEXT)
PREPROCESS = Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def model() -> Model:
    return Model(build(CONFIG, seed=0), WORDS, PREPROCESS)


def test_pixels_are_normalised_by_the_preprocessings_mean_and_deviation() -> None:
    pixels = torch.arange(3 * 32 * 32).remainder(256).view(1, 3, 32, 32).to(torch.uint8)
    found = model().normalize_pixels(pixels)
    mean, std = (np.array(v, np.float64).reshape(1, 3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    expected = (pixels.double().numpy() / 255 - mean) / std
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 1e-6


def test_pictures_of_any_size_become_one_batch() -> None:
    pictures = [Image.new("RGB", size, (10, 20, 30)) for size in ((40, 64), (32, 32), (100, 33))]
    pixels = model().preprocess_images(pictures)
    assert pixels.shape == (3, 3, 32, 32)
    mean, std = torch.tensor(PREPROCESS.mean), torch.tensor(PREPROCESS.std)
    expected = (torch.tensor([10, 20, 30]) / 255 - mean) / std
    assert torch.allclose(pixels[0, :, 0, 0], expected, atol=1e-6)
    assert model().preprocess_images([]).shape == (0, 3, 32, 32)


def test_encoding_uses_running_statistics_and_keeps_the_mode() -> None:
    one = model()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one.clip.eval()
    expected = one.encode_image(pixels)
    one.clip.train()
    assert torch.equal(one.encode_image(pixels), expected)
    assert one.clip.training
    assert not one.encode_image(pixels).requires_grad


def test_embeds_have_unit_length() -> None:
    one = model()
    texts = one.embed_text(one.tokenize(["a red square", ""]))
    images = one.embed_image(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for embeds in (texts, images):
        assert embeds.shape == (2, 24)
        assert torch.allclose(embeds.norm(dim=-1), torch.ones(2), atol=1e-6)


def test_parts_that_do_not_fit_are_refused() -> None:
    other = Tokenizer.train(["a red circle above a blue square"] * 9, size=520, context_length=12)
    with pytest.raises(SettingsError, match="vocab_size"):
        Model(build(CONFIG, seed=0), other, PREPROCESS)
    with pytest.raises(SettingsError, match="size"):
        Model(build(CONFIG, seed=0), WORDS, Preprocess(size=(64, 32)))
