"""Configurations refuse what cannot be built, and survive plain data."""

from dataclasses import replace
from typing import Any

import pytest

from diptych.core.errors import SettingsError, UnknownNameError
from diptych.core.settings import from_mapping, to_mapping
from diptych.models.towers.config import (
    ClipConfig,
    ResNetConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    TextConfig,
    VitConfig,
)
from diptych.models.towers.presets import PRESETS, preset

SIGLIP = preset("ViT-B-16-SigLIP")


def test_every_preset_survives_plain_data_and_an_unknown_one_names_the_nearest() -> None:
    for name in PRESETS:
        assert from_mapping(ClipConfig, to_mapping(preset(name))) == preset(name), name
    with pytest.raises(UnknownNameError, match="ViT-B-32"):
        preset("ViT-B32")


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (lambda: VitConfig(width=100, heads=3), "width"),
        (lambda: VitConfig(image_size=(224, 225)), "multiples of 32"),
        (lambda: VitConfig(layers=0), "layers"),
        (lambda: ResNetConfig(image_size=(48, 64)), "multiples of 32"),
        (lambda: ResNetConfig(layers=(1, 2, 3)), "four stages"),  # type: ignore[arg-type]
        (lambda: TextConfig(vocab_size=100), "start_id"),
        (lambda: ClipConfig(8, VitConfig(), TextConfig(), activation="relu"), "relu"),  # type: ignore[arg-type]
        (lambda: ClipConfig(0, VitConfig(), TextConfig()), "embed_dim"),
        (lambda: SiglipVisionConfig((8, 224)), "smaller than a patch"),
        (lambda: SiglipTextConfig(pad_id=32_000), "pad_id"),
        (lambda: SiglipTextConfig(start_id=32_000), "start_id"),
        (lambda: replace(SIGLIP, text_activation="relu"), "text_activation"),  # type: ignore[arg-type]
        (
            lambda: replace(SIGLIP, vision=SiglipVisionConfig(width=192, heads=3)),
            "as wide as the shared space",
        ),
        (
            lambda: replace(SIGLIP, text=SiglipTextConfig(width=80, heads=4, head=False)),
            "as the shared space",
        ),
    ],
)
def test_impossible_shapes_are_refused(build: Any, part: str) -> None:
    with pytest.raises((SettingsError, UnknownNameError)) as error:
        build()
    assert part in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dim": "512"},
        {"activations": "gelu"},
        {"vision": {"kind": "swin"}},
        {"vision": {"kind": "vit", "patch": 8}},
        {"text": {"width": True}},
        {"vision": {"kind": "vit", "image_size": [64]}},
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(change: dict[str, Any]) -> None:
    mapping = to_mapping(preset("ViT-B-32")) | change
    with pytest.raises((SettingsError, UnknownNameError)):
        from_mapping(ClipConfig, mapping)


def test_another_tokenizer_changes_only_the_vocabulary_and_its_padding() -> None:
    tiny = preset("vit-tiny-8-64")
    config = tiny.with_tokenizer(vocab_size=1000, start_id=998, end_id=999, pad_id=5, context_length=20)
    words = replace(tiny.text, vocab_size=1000, start_id=998, end_id=999, context_length=20)
    assert config == replace(tiny, text=words)
    config = SIGLIP.with_tokenizer(vocab_size=300, start_id=-1, end_id=1, pad_id=0, context_length=8)
    assert config.text == replace(SIGLIP.text, context_length=8, vocab_size=300, pad_id=0)  # type: ignore


def test_configurations_without_a_kind_of_text_mean_the_causal_tower() -> None:
    read = from_mapping(ClipConfig, to_mapping(SIGLIP) | {"text": {"width": 64, "heads": 1}})
    assert read.text == TextConfig(width=64, heads=1)
