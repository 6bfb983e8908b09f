"""Translate weights between our names and those of OpenAI's CLIP, which open_clip shares.

Both sides agree on most names. The differences: theirs call the picture tower ``visual`` and leave the text
tower without a prefix, nest blocks in ``transformer.resblocks``, and pack query, key and value into one
``in_proj``.

Source: OpenAI's ``clip/model.py`` (``build_model`` infers the architecture from shapes as we do); open_clip
3.3.
"""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.config import Activation, ClipConfig, ResNetConfig, TextConfig, VitConfig

HEAD_WIDTH = 64
"""Every published CLIP has heads of this width; weights alone do not tell."""

_PACKED = re.compile(r"(?P<stem>.*\.attn)\.in_proj_(?P<kind>weight|bias)")
_SEPARATE = re.compile(r"(?P<stem>.*\.blocks\.\d+\.attn)\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)")
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}


def from_openai_state(
    state: Mapping[str, Tensor], *, activation: Activation, head_width: int = HEAD_WIDTH
) -> tuple[ClipConfig, dict[str, Tensor]]:
    """Read weights in the OpenAI / open_clip layout.

    Args:
        state: their tensors by name.
        activation: recorded nowhere in the weights, and decisive: OpenAI's own use ``"quick_gelu"``.
        head_width: width of an attention head.

    Returns:
        The architecture that the shapes imply (square pictures), and our tensors by name in float32.

    Raises:
        DataError: a tensor that tells the architecture is missing.
    """
    state = {name: tensor for name, tensor in state.items() if name not in _NOT_WEIGHTS}
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        value = tensor.detach()
        if value.is_floating_point():
            value = value.float()
        if packed := _PACKED.fullmatch(name):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                key = f"{_our_name(packed['stem'])}.{part}_proj.{packed['kind']}"
                ours[key] = piece.clone()
        else:
            ours[_our_name(name)] = value.reshape(()) if name == "logit_scale" else value.clone()
    return _infer(state, activation, head_width), ours


def to_openai_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write our weights in the OpenAI / open_clip layout; the inverse of `from_openai_state`'s renaming.

    Args:
        state: ``Clip.state_dict()``.

    Returns:
        Their tensors by name, on the device and in the dtype of ours.
    """
    theirs: dict[str, Tensor] = {}
    packs: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        value = tensor.detach()
        if separate := _SEPARATE.fullmatch(name):
            pack = packs.setdefault((_their_name(separate["stem"]), separate["kind"]), {})
            pack[separate["part"]] = value
        else:
            theirs[_their_name(name)] = value.clone()
    for (stem, kind), parts in packs.items():
        theirs[f"{stem}.in_proj_{kind}"] = torch.cat([parts[part] for part in "qkv"])
    return theirs


def _our_name(name: str) -> str:
    name = name.replace("transformer.resblocks.", "blocks.")
    if name == "logit_scale":
        return name
    prefix, dot, rest = name.partition(".")
    return f"vision.{rest}" if dot and prefix == "visual" else f"text.{name}"


def _their_name(name: str) -> str:
    name = name.replace(".blocks.", ".transformer.resblocks.")
    prefix, _, rest = name.partition(".")
    return {"vision": f"visual.{rest}", "text": rest}.get(prefix, name)


def _infer(state: Mapping[str, Tensor], activation: Activation, head_width: int) -> ClipConfig:
    try:
        vocab_size, text_width = state["token_embedding.weight"].shape
        text = TextConfig(
            context_length=state["positional_embedding"].shape[0],
            vocab_size=vocab_size,
            width=text_width,
            layers=_count(state, r"transformer\.resblocks\.(\d+)\."),
            heads=text_width // head_width,
            start_id=vocab_size - 2,
            end_id=vocab_size - 1,
        )
        vision = (_infer_vit if "visual.proj" in state else _infer_resnet)(state, head_width)
        embed_dim = state["text_projection"].shape[1]
    except KeyError as error:
        raise DataError(
            "the weights are not a CLIP in the OpenAI layout",
            found=f"no tensor {error}",
            expected="the names of openai/CLIP or open_clip",
            fix="give the state dictionary of a CLIP without a text. or trunk. prefix",
        ) from error
    return ClipConfig(embed_dim, vision, text, activation=activation)


def _infer_vit(state: Mapping[str, Tensor], head_width: int) -> VitConfig:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = math.isqrt(state["visual.positional_embedding"].shape[0] - 1) * patch
    layers = _count(state, r"visual\.transformer\.resblocks\.(\d+)\.")
    return VitConfig((side, side), patch, width, layers, width // head_width)


def _infer_resnet(state: Mapping[str, Tensor], head_width: int) -> ResNetConfig:
    stages = [_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    positions, output_width = state["visual.attnpool.positional_embedding"].shape
    side = math.isqrt(positions - 1) * 32  # the published towers all have a total stride of 32
    width = state["visual.conv3.weight"].shape[0]
    layers = (stages[0], stages[1], stages[2], stages[3])
    return ResNetConfig((side, side), layers, width, output_width // head_width)


def _count(names: Iterable[str], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})
