"""Configurations refuse what cannot be built, and survive plain data."""

from dataclasses import replace
from typing import Any

import pytest

from diptych.core.errors import SettingsError, UnknownNameError
from diptych.core.settings import from_mapping, to_mapping
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig
from diptych.models.towers.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_plain_data(name: str) -> None:
    assert from_mapping(ClipConfig, to_mapping(preset(name))) == preset(name)


def test_an_unknown_preset_names_the_nearest() -> None:
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


def test_with_tokenizer_changes_only_the_vocabulary() -> None:
    config = preset("vit-tiny-8-64").with_tokenizer(
        vocab_size=1000, start_id=998, end_id=999, context_length=20
    )
    assert (config.text.vocab_size, config.text.start_id, config.text.end_id) == (1000, 998, 999)
    assert config.text.context_length == 20
    assert replace(config, text=preset("vit-tiny-8-64").text) == preset("vit-tiny-8-64")
