"""Infer the architecture of weights in OpenAI's layout, which open_clip shares, from their shapes.

Source: OpenAI's ``clip/model.py`` (``build_model`` infers the architecture from shapes as we do).
"""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from diptych.core.errors import DataError, UnsupportedError
from diptych.models.formats.layouts import State, openai_rows, weights_only, write_rows
from diptych.models.towers.config import (
    NO_TOKEN,
    Activation,
    ClipConfig,
    ResNetConfig,
    TextConfig,
    VitConfig,
    mlp_ratio,
)
from diptych.models.towers.presets import PUBLISHED

SIGMOID_BIAS = -10.0  # where open_clip's ``--siglip`` lets the bias start (Zhai et al. 2023, section 3.2)
HEAD_WIDTH = 64  # of every attention head in OpenAI's own code, whatever the weights
ARCHIVE_NUMBERS = ("input_resolution", "context_length", "vocab_size")  # beside the weights in their archives

T = TypeVar("T", VitConfig | ResNetConfig, TextConfig)


def infer_openai(state: State, *, activation: Activation, head_width: int | None = None) -> ClipConfig:
    """Return the architecture that the shapes imply (square images) of weights without a configuration.

    Args:
        state: their tensors by name.
        activation: recorded nowhere in the weights, and decisive: OpenAI's own use ``"quick_gelu"``.
        head_width: None: the number of heads is known of published towers alone.

    Raises:
        DataError: other names than OpenAI's.
        UnsupportedError: the number of heads is not known.
    """
    try:
        return _infer(weights_only(state), activation, head_width)
    except KeyError as error:
        what, expected = (
            "the weights are not a CLIP in the OpenAI layout",
            "the names of openai/CLIP or open_clip",
        )
        fix = "give the weights of a CLIP; other towers need their open_clip_config.json beside them"
        raise DataError(what, found=f"no tensor {error}", expected=expected, fix=fix) from error


def to_openai_state(state: State) -> dict[str, Tensor]:
    """Write our weights in the OpenAI / open_clip layout, on their device and in their dtype."""
    return write_rows(openai_rows(state), state)


def bias_init(names: Collection[str], stated: float | None = None) -> float | None:
    """Return where the bias of the sigmoid loss starts; None: there is none."""
    return SIGMOID_BIAS if stated is None and "logit_bias" in names else stated


def _infer(state: State, activation: Activation, head_width: int | None) -> ClipConfig:
    vocab_size, width = state["token_embedding.weight"].shape
    layers, ratio = _blocks(state, "transformer")
    text = TextConfig(
        context_length=state["positional_embedding"].shape[0],
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=_heads_of(width, head_width),
        start_id=NO_TOKEN,
        end_id=NO_TOKEN,
        mlp_ratio=ratio,
    )
    vision = (_infer_vit if "visual.proj" in state else _infer_resnet)(state, head_width)
    embed_dim = state["text_projection"].shape[1]
    if head_width is None:
        vision, text = _published("vision", vision), _published("text", text)
    return ClipConfig(embed_dim, vision, text, activation=activation, logit_bias_init=bias_init(state))


def _infer_vit(state: State, head_width: int | None) -> VitConfig:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = math.isqrt(state["visual.positional_embedding"].shape[0] - 1) * patch  # a published one is square
    layers, ratio = _blocks(state, "visual.transformer")
    return VitConfig((side, side), patch, width, layers, _heads_of(width, head_width), ratio)


def _infer_resnet(state: State, head_width: int | None) -> ResNetConfig:
    one, two, three, four = (_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    positions, output_width = state["visual.attnpool.positional_embedding"].shape
    side = math.isqrt(positions - 1) * 32  # the published towers all have a total stride of 32
    width, heads = state["visual.conv3.weight"].shape[0], _heads_of(output_width, head_width)
    return ResNetConfig((side, side), (one, two, three, four), width, heads)


def _heads_of(width: int, head_width: int | None) -> int:
    return width // head_width if head_width else 1


def _blocks(state: State, transformer: str) -> tuple[int, float]:
    """Return the number of residual blocks, and by how much their MLPs are wider than they."""
    hidden, width = state[f"{transformer}.resblocks.0.mlp.c_fc.weight"].shape
    return _count(state, rf"{re.escape(transformer)}\.resblocks\.(\d+)\."), mlp_ratio(width, hidden)


def _count(names: Iterable[str], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def _published(tower: str, inferred: T) -> T:
    """Return a tower whose shape is that of a published one, with its number of heads."""
    for config in PUBLISHED.values():
        known = getattr(config, tower)
        if isinstance(known, type(inferred)) and _shape(known) == _shape(inferred):
            return replace(inferred, heads=known.heads)
    what = f"weights alone do not tell the number of heads, and the {tower} tower has no published shape"
    found = ", ".join(f"{name} {value}" for name, value in _shape(inferred).items())
    fix = "pass config= with the open_clip configuration that the model was trained with (a JSON file)"
    raise UnsupportedError(what, found=found, expected="config=", fix=fix)


def _shape(tower: Any) -> dict[str, Any]:
    """Return what the weights of a tower tell; of the text tower any context and vocabulary will do."""
    shape = {name: getattr(tower, name, None) for name in ("image_size", "patch_size", "width", "layers")}
    mlp_width = {"mlp_width": int(tower.width * tower.mlp_ratio)} if hasattr(tower, "mlp_ratio") else {}
    return {name: value for name, value in shape.items() if value is not None} | mlp_width
