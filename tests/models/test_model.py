"""The user's view of a model: images and texts in, features out."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.export.small import small_model

from diptych.core.errors import SettingsError, UnknownNameError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.model import Model
from diptych.models.towers import numerics
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig

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


def test_images_of_any_size_become_one_batch() -> None:
    images = [Image.new("RGB", size, (10, 20, 30)) for size in ((40, 64), (32, 32), (100, 33))]
    pixels = model().preprocess_images(images)
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
    before = {name: tensor.clone() for name, tensor in one.clip.state_dict().items()}
    one.clip.train()
    assert torch.equal(one.encode_image(pixels), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.clip.state_dict().items())
    assert one.clip.training
    assert not one.encode_image(pixels).requires_grad


def test_parts_that_do_not_fit_are_refused() -> None:
    other = Tokenizer.train(["a red circle above a blue square"] * 9, size=520, context_length=12)
    with pytest.raises(SettingsError, match="vocab_size"):
        Model(build(CONFIG, seed=0), other, PREPROCESS)
    with pytest.raises(SettingsError, match="size"):
        Model(build(CONFIG, seed=0), WORDS, Preprocess(size=(64, 32)))


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_bfloat16_keeps_the_direction_and_the_norms_in_float32(vision: str) -> None:
    one, other = small_model(vision), small_model(vision).compute_in("bfloat16")
    pixels = torch.randn(8, 3, *one.config.vision.image_size, generator=torch.Generator().manual_seed(0))
    tokens = one.tokenize(["two green dogs", "", "a red circle"])
    for name, given in (("encode_image", pixels), ("encode_text", tokens)):
        ours, theirs = (getattr(model, name)(given, normalize=True) for model in (other, one))
        assert ours.dtype == torch.float32
        assert 0.9998 < (ours * theirs).sum(dim=1).min() < 0.999999999
    held = {name: parameter.dtype for name, parameter in other.clip.named_parameters()}
    assert held["text.ln_final.weight"] == held["logit_scale"] == torch.float32
    assert held["text.blocks.0.mlp.c_fc.weight"] == torch.bfloat16
    rows = other.encode_batch(np.zeros((2, *one.config.vision.image_size, 3), np.uint8))
    assert rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=1), 1)


def test_precisions_are_chosen_by_the_processor_and_misspelt_ones_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for half in (True, False):
        monkeypatch.setattr(numerics, "multiplies_bfloat16", lambda half=half: half)
        dtype = next(small_model().compute_in("auto").clip.vision.parameters()).dtype
        assert dtype == (torch.bfloat16 if half else torch.float32)
    with pytest.raises(UnknownNameError, match="bfloat16"):
        small_model().compute_in("bf16")  # type: ignore[arg-type]
