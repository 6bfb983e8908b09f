"""SigLIP and SigLIP 2 in the layouts of transformers and open_clip: pure functions, tensors by name.

transformers keeps ``SiglipModel`` (SigLIP 2 at a fixed resolution too) under ``vision_model`` and
``text_model``; open_clip puts timm's image tower under ``visual.trunk`` and its own text tower under
``text``. Both pack some of query, key and value. Every tensor is used and none may be missing.

The ids of end and pad token are in neither layout (transformers' defaults are CLIP's and mean nothing here):
take them from the tokenizer, with `ClipConfig.with_tokenizer`.

Source: transformers 5 ``models/siglip``; open_clip 3.3 ``model.py``, ``timm_model.py``; timm 1.0
``vision_transformer.py``.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from diptych.core.errors import DataError, UnsupportedError, unknown_name
from diptych.core.settings import from_mapping, wrong_type
from diptych.models.formats.layouts import open_clip_siglip_rows, transformers_siglip_rows
from diptych.models.formats.mapping import read_rows, write_rows
from diptych.models.formats.siglip_settings import OpenClip, TransformersText, TransformersVision
from diptych.models.towers.config import (
    NO_CEILING,
    Activation,
    ClipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    check_sizes,
    mlp_ratio,
)
from diptych.models.towers.timm_trunks import TRUNK_EPS, TRUNKS, Trunk, trunk_name

State = dict[str, Tensor]
T = TypeVar("T")

_TO_OURS: dict[str, Activation] = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
}
_TO_TRANSFORMERS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}
_TOKENIZERS = {32_000: "timm/ViT-B-16-SigLIP", 250_000: "timm/ViT-B-16-SigLIP-i18n-256"}
_NEWEST_TOKENIZER = "timm/ViT-B-16-SigLIP2"


def from_transformers_siglip(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[ClipConfig, State]:
    """Read a SiglipModel of transformers.

    Args:
        config: its config.json.
        state: its tensors by name.

    Returns:
        The architecture, and our tensors by name in float32.

    Raises:
        SettingsError: the configuration is not that of a SigLIP at a fixed resolution.
        DataError: a tensor is missing, left over or of another shape.
    """
    if config.get("model_type") != "siglip":
        raise UnsupportedError(
            "this is not a SigLIP at a fixed resolution",
            where="config.json: model_type",
            found=repr(config.get("model_type")),
            expected="'siglip' (SigLIP 2 at a fixed resolution has it too; 'siglip2' is NaFlex)",
            fix="take the checkpoint of a fixed resolution, such as google/siglip2-base-patch16-224",
        )
    text = _known(TransformersText, config.get("text_config"), "config.json: text_config")
    vision = _known(TransformersVision, config.get("vision_config"), "config.json: vision_config")
    text_act = _activation(text.hidden_act, "config.json: text_config.hidden_act")
    activation = _activation(vision.hidden_act, "config.json: vision_config.hidden_act")
    ours = ClipConfig(
        embed_dim=text.projection_size or text.hidden_size,
        vision=SiglipVisionConfig(
            image_size=_pair(vision.image_size),
            patch_size=vision.patch_size,
            width=vision.hidden_size,
            layers=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            mlp_ratio=mlp_ratio(vision.hidden_size, vision.intermediate_size),
        ),
        text=SiglipTextConfig(
            context_length=text.max_position_embeddings,
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            mlp_ratio=mlp_ratio(text.hidden_size, text.intermediate_size),
        ),
        activation=activation,
        text_activation=None if text_act == activation else text_act,
        layer_norm_eps=_same_eps(vision.layer_norm_eps, text.layer_norm_eps),
        logit_scale_init=math.log(10),
        logit_scale_max=NO_CEILING,
        logit_bias_init=-10.0,
    )
    check_sizes(ours)
    wanted = {name: tensor for name, tensor in state.items() if not name.endswith(".position_ids")}
    return ours, _fitting(ours, read_rows(transformers_siglip_rows(*_towers(ours)), wanted))


def to_transformers_siglip(config: ClipConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], State]:
    """Write a SiglipModel of transformers; the inverse of `from_transformers_siglip`.

    A text tower without a head gets the identity, which changes no number; a missing bias becomes zero.

    Returns:
        Its config.json and its tensors by name, in the dtype of ours.

    Raises:
        SettingsError: transformers has no such model.
    """
    vision, text = _towers(config)
    side = vision.image_size[0]
    if vision.image_size != (side, side):
        raise _no_place("transformers", "vision.image_size", vision.image_size, "a square")
    shared = {"layer_norm_eps": config.layer_norm_eps, "attention_dropout": 0.0}
    theirs = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "initializer_factor": 1.0,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": int(vision.width * vision.mlp_ratio),
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "num_channels": 3,
            "image_size": side,
            "patch_size": vision.patch_size,
            "hidden_act": _TO_TRANSFORMERS[config.activation],
            **shared,
        },
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": int(text.width * text.mlp_ratio),
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "projection_size": config.embed_dim,
            "hidden_act": _TO_TRANSFORMERS[config.text_activation or config.activation],
            "pad_token_id": text.pad_id,
            "eos_token_id": text.end_id,
            "bos_token_id": None,
            **shared,
        },
    }
    full = dict(state)
    if not text.head:
        scale = state["logit_scale"]
        full["text.head.weight"] = torch.eye(text.width, dtype=scale.dtype, device=scale.device)
        full["text.head.bias"] = scale.new_zeros(text.width)
    if config.logit_bias_init is None:
        full["logit_bias"] = torch.zeros_like(state["logit_scale"])
    return theirs, write_rows(transformers_siglip_rows(vision, text), full)


def from_open_clip_siglip(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, trunks: Mapping[str, Trunk] = TRUNKS
) -> tuple[ClipConfig, State]:
    """Read a SigLIP of open_clip.

    Args:
        config: ``model_cfg`` of its open_clip_config.json.
        state: its tensors by name.
        trunks: timm's image towers by name; their heads and activation are recorded nowhere else.

    Returns:
        The architecture, and our tensors by name in float32.

    Raises:
        SettingsError: the configuration is not that of a SigLIP.
        DataError: a tensor is missing, left over or of another shape.
    """
    found = from_mapping(OpenClip, config, where="model_cfg")
    text = found.text_cfg
    if found.vision_cfg.timm_model_name not in trunks:
        raise unknown_name(
            "timm model", found.vision_cfg.timm_model_name, trunks, where="model_cfg: vision_cfg"
        )
    trunk = trunks[found.vision_cfg.timm_model_name]
    text_act = _open_clip_activation(found)
    if text.proj_type == "linear" and not text.proj_bias:
        raise _no_place("diptych", "text_cfg.proj_bias", False, "SigLIP's head with a bias")
    ours = ClipConfig(
        embed_dim=found.embed_dim,
        vision=SiglipVisionConfig(
            image_size=_pair(found.vision_cfg.image_size),
            patch_size=trunk.patch_size,
            width=trunk.width,
            layers=trunk.layers,
            heads=trunk.heads,
            mlp_ratio=trunk.mlp_ratio,
        ),
        text=SiglipTextConfig(
            context_length=text.context_length,
            vocab_size=text.vocab_size,
            width=text.width,
            layers=text.layers,
            heads=text.heads,
            mlp_ratio=text.mlp_ratio,
            head=text.proj_type == "linear",
        ),
        activation=trunk.activation,
        text_activation=None if text_act == trunk.activation else text_act,
        layer_norm_eps=_same_eps(TRUNK_EPS, text.norm_kwargs.get("eps", 1e-5)),
        logit_scale_init=found.init_logit_scale,
        logit_scale_max=NO_CEILING,
        logit_bias_init=found.init_logit_bias,
    )
    check_sizes(ours)
    return ours, _fitting(ours, read_rows(open_clip_siglip_rows(*_towers(ours), bias=_has_bias(ours)), state))


def to_open_clip_siglip(
    config: ClipConfig,
    state: Mapping[str, Tensor],
    *,
    clean: str = "canonicalize",
    trunks: Mapping[str, Trunk] = TRUNKS,
) -> tuple[dict[str, Any], State]:
    """Write a SigLIP of open_clip; the inverse of `from_open_clip_siglip`.

    The tokenizer it names is the published one of that vocabulary's size; open_clip takes the files of a
    local folder instead.

    Args:
        config: the architecture.
        state: our tensors by name.
        clean: how open_clip cleans texts before its tokenizer (`SiglipTokenizer.save_for_open_clip`).
        trunks: timm's image towers by name.

    Returns:
        ``model_cfg`` and its tensors by name, in the dtype of ours.

    Raises:
        SettingsError: open_clip has no such model: timm builds only the towers in ``trunks``.
    """
    vision, text = _towers(config)
    if config.layer_norm_eps != TRUNK_EPS:
        raise _no_place("open_clip", "layer_norm_eps", config.layer_norm_eps, TRUNK_EPS)
    act = config.text_activation or config.activation
    side = vision.image_size[0]
    text_cfg: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "hf_tokenizer_name": _TOKENIZERS.get(text.vocab_size, _NEWEST_TOKENIZER),
        "tokenizer_kwargs": {"clean": clean},
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
        "mlp_ratio": text.mlp_ratio,
        "no_causal_mask": True,
        "pool_type": "last",
        **({"proj_bias": True} if text.head else {"proj_type": "none"}),
        "norm_kwargs": {"eps": config.layer_norm_eps},
        **({"act_kwargs": {"approximate": "tanh"}} if act == "gelu_tanh" else {}),
    }
    theirs: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "init_logit_scale": config.logit_scale_init,
        **({} if config.logit_bias_init is None else {"init_logit_bias": config.logit_bias_init}),
        "custom_text": True,
        **({"quick_gelu": True} if act == "quick_gelu" else {}),
        "vision_cfg": {
            "image_size": side if vision.image_size == (side, side) else list(vision.image_size),
            "timm_model_name": trunk_name(vision, config.activation, trunks),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": text_cfg,
    }
    return theirs, write_rows(open_clip_siglip_rows(vision, text, bias=_has_bias(config)), state)


def _known(cls: type[T], section: Any, where: str) -> T:
    """Return the settings of one section; transformers writes many others, which change no number here."""
    if not isinstance(section, Mapping):
        raise wrong_type(where, section, "a table")
    names = {setting.name for setting in fields(cls)}  # type: ignore[arg-type]
    return from_mapping(cls, {name: section[name] for name in section if name in names}, where=where)


def _activation(name: str, where: str) -> Activation:
    if name not in _TO_OURS:
        raise unknown_name("activation", name, _TO_OURS, where=where)
    return _TO_OURS[name]


def _open_clip_activation(config: OpenClip) -> Activation:
    arguments = config.text_cfg.act_kwargs
    if config.quick_gelu and not arguments:
        return "quick_gelu"
    known: dict[str, Activation] = {"none": "gelu", "tanh": "gelu_tanh"}
    kind = arguments.get("approximate", "none")
    if config.quick_gelu or kind not in known or set(arguments) - {"approximate"}:
        raise _no_place("diptych", "text_cfg.act_kwargs", arguments, "approximate: none or tanh")
    return known[kind]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _same_eps(vision: float, text: float) -> float:
    if vision != text:
        raise _no_place("diptych", "layer_norm_eps", f"{vision:g} and {text:g}", "one for both towers")
    return vision


def _towers(config: ClipConfig) -> tuple[SiglipVisionConfig, SiglipTextConfig]:
    vision, text = config.vision, config.text
    if not isinstance(vision, SiglipVisionConfig) or not isinstance(text, SiglipTextConfig):
        raise _no_place("a SigLIP", "kind", f"{vision.kind} and {text.kind}", "siglip twice")
    return vision, text


def _has_bias(config: ClipConfig) -> bool:
    return config.logit_bias_init is not None


def _fitting(config: ClipConfig, state: State) -> State:
    """Return the tensors if the tables that depend on the configuration's sizes have them."""
    vision, text = _towers(config)
    grid = vision.grid[0] * vision.grid[1]
    wanted = {
        "vision.positional_embedding": [grid, vision.width],
        "vision.conv1.weight": [vision.width, 3, vision.patch_size, vision.patch_size],
        "text.positional_embedding": [text.context_length, text.width],
        "text.token_embedding.weight": [text.vocab_size, text.width],
    }
    for name, shape in wanted.items():
        if list(state[name].shape) != shape:
            raise DataError(
                "weights and configuration are not of the same model",
                where=name,
                found=str(list(state[name].shape)),
                expected=str(shape),
                fix="give the configuration that was saved with these weights",
            )
    return state


def _no_place(who: str, where: str, found: object, expected: object) -> UnsupportedError:
    return UnsupportedError(
        f"{who} has no place for this setting",
        where=where,
        found=str(found),
        expected=str(expected),
        fix="convert a model whose configuration has it, or keep it in its own format",
    )
