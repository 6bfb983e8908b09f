"""Translate between our configuration and that of Hugging Face transformers.

CLIPModel and SiglipModel (SigLIP 2 at a fixed resolution too); mappings in, mappings out. ModifiedResNets
have no form there. The ids of SigLIP's tokens are not in the configuration (its defaults are CLIP's and mean
nothing here): take them from the tokenizer, with `ClipConfig.with_tokenizer`.

Source: transformers 5.23 `models/clip/`, `models/siglip/`, and the files that older releases left on the hub
(`*_config_dict`, `eos_token_id` 2, position ids, flat preprocessor_config.json).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch

from diptych.core.errors import UnsupportedError
from diptych.core.settings import from_mapping, wrong_type
from diptych.data.images.transforms import CLIP_MEAN, CLIP_STD, Preprocess
from diptych.models.formats.layouts import State
from diptych.models.towers.config import (
    NO_CEILING,
    NO_TOKEN,
    Activation,
    ClipConfig,
    ResNetConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    TextConfig,
    VitConfig,
    check_sizes,
    mlp_ratio,
)

T = TypeVar("T")
Size = int | tuple[int, int] | Mapping[str, int | None]

# How the names of classes begin, by the `model_type` of config.json, also the `kind` of our text tower.
FAMILIES = {"clip": "CLIP", "siglip": "Siglip"}
ACTIVATIONS: dict[str, Activation] = {
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu",
}  # fmt: skip
# What files from before 2023 say whatever the vocabulary; texts are read at the largest id then.
LEGACY_END = 2

# Keys of a tower, and what they are called here; the width of the MLP is here a ratio.
_SHARED_KEYS = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}
TEXT_KEYS = {"vocab_size": "vocab_size", "max_position_embeddings": "context_length", **_SHARED_KEYS}
VISION_KEYS = {"patch_size": "patch_size", **_SHARED_KEYS}

# What a config.json means where it does not say.
_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("clip", "text_config"): {
        "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "vocab_size": 49_408, "max_position_embeddings": 77, "eos_token_id": 49_407,
    },
    ("clip", "vision_config"): {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    ("siglip", "text_config"): {"vocab_size": 32_000, "max_position_embeddings": 64},
    ("siglip", "vision_config"): {"patch_size": 16},
}  # fmt: skip
_PROCESSOR_DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224},
    "Siglip": {"size": {"height": 224, "width": 224}, "do_center_crop": False},
}
# Keys of an image processor that change no pixel of an RGB image; others must be off, or known.
_NO_PIXELS = {
    "image_processor_type", "feature_extractor_type", "processor_class", "_processor_class",
    "do_convert_rgb", "return_tensors", "data_format", "input_data_format", "device", "disable_grouping",
    "use_fast", "auto_map", "_valid_processor_keys", "name_or_path", "_name_or_path", "transformers_version",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TowerKeys:
    """The keys of `text_config` and `vision_config` that shape a tower; defaults of a base SigLIP's."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: Literal["gelu_pytorch_tanh", "gelu_new", "gelu", "quick_gelu"] = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    vocab_size: int = 0
    max_position_embeddings: int = 0
    eos_token_id: int | None = None
    projection_size: int | None = None
    num_channels: Literal[3] = 3
    image_size: int | tuple[int, int] = 224
    patch_size: int = 0
    vision_use_head: Literal[True] = True


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """The keys of a CLIP or SigLIP image processor that shape the pixels; mean and deviation are required."""

    size: Size
    do_resize: Literal[True] = True
    resample: Literal[2, 3] = 3  # bilinear, bicubic
    do_center_crop: bool = True
    crop_size: Size | None = None
    do_rescale: Literal[True] = True
    rescale_factor: float = 1 / 255
    do_normalize: Literal[True] = True
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD


def from_transformers(config: Mapping[str, Any]) -> ClipConfig:
    """Read the config.json of a CLIPModel or SiglipModel; only the keys that shape the towers count.

    Raises:
        SettingsError: the configuration says something that our towers cannot do, or is malformed.
    """
    family = config["model_type"]
    text, vision = (_tower_keys(config, family, part) for part in ("text_config", "vision_config"))
    if (eps := vision.layer_norm_eps) != text.layer_norm_eps:
        raise _cannot("layer_norm_eps", f"{text.layer_norm_eps:g} and {eps:g}", "the same in both towers")
    ours = (_siglip if family == "siglip" else _clip)(config, vision, text)
    check_sizes(ours)
    return ours


def to_transformers(config: ClipConfig) -> dict[str, Any]:
    """Write the config.json of a CLIPModel or SiglipModel; the inverse of `from_transformers`.

    Raises:
        UsageError: transformers has no such towers.
    """
    vision, text = config.vision, config.text
    siglip = isinstance(vision, SiglipVisionConfig) and isinstance(text, SiglipTextConfig)
    clip = isinstance(vision, VitConfig) and isinstance(text, TextConfig) and config.logit_bias_init is None
    side = vision.image_size[0]
    if not (siglip or clip) or isinstance(vision, ResNetConfig) or vision.image_size[1] != side:
        bias = ", a logit_bias" * (config.logit_bias_init is not None)
        found = f"{vision.kind} and {text.kind} on images of {vision.image_size}{bias}"
        expected = "a CLIP with a vision Transformer and without a bias, or a SigLIP, on square images"
        raise UnsupportedError("transformers has no such towers", found=found, expected=expected)
    family = text.kind
    shared = {"layer_norm_eps": config.layer_norm_eps}
    shared |= {"attention_dropout": 0.0} if siglip else {"projection_dim": config.embed_dim}
    theirs: dict[str, Any] = {
        "architectures": [f"{FAMILIES[family]}Model"],
        "model_type": family,
        "text_config": {
            "model_type": f"{family}_text_model",
            "bos_token_id": None if siglip else text.start_id,
            "eos_token_id": text.end_id,
            "pad_token_id": text.pad_id if isinstance(text, SiglipTextConfig) else text.end_id,
            **_keys_of(text, TEXT_KEYS, config.text_activation or config.activation),
            **shared,
        },
        "vision_config": {
            "model_type": f"{family}_vision_model",
            "image_size": side,
            "num_channels": 3,
            **_keys_of(vision, VISION_KEYS, config.activation),
            **shared,
        },
    }
    if siglip:
        theirs["text_config"]["projection_size"] = config.embed_dim
        return theirs | {"initializer_factor": 1.0}
    return theirs | {"projection_dim": config.embed_dim, "logit_scale_init_value": config.logit_scale_init}


def with_head_and_bias(config: ClipConfig, state: State) -> State:
    """Add what every SiglipModel has: the identity as the text tower's head, and a bias of 0."""
    text, scale = config.text, state["logit_scale"]
    if not isinstance(text, SiglipTextConfig):
        return state
    head = {
        "text.head.weight": torch.eye(text.width, dtype=scale.dtype, device=scale.device),
        "text.head.bias": scale.new_zeros(text.width),
    }
    return {**head, "logit_bias": torch.zeros_like(scale), **state}


def preprocess_from_transformers(
    processor: Mapping[str, Any], size: tuple[int, int], family: str
) -> Preprocess:
    """Read preprocessor_config.json, or processor_config.json with `image_processor` in it.

    `size` is (height, width) of the image tower, `family` the `model_type` of the model.
    """
    stated = processor.get("image_processor", processor)
    if not isinstance(stated, Mapping):
        raise wrong_type("image_processor", stated, "a table")
    for name in ("image_mean", "image_std"):
        # The defaults of CLIP's processor are not SigLIP's, and every saved processor states them.
        if stated.get(name) is None:
            raise _cannot(name, "nothing", "three numbers")
    kind = str(stated.get("image_processor_type") or stated.get("feature_extractor_type") or FAMILIES[family])
    defaults = next((d for prefix, d in _PROCESSOR_DEFAULTS.items() if kind.startswith(prefix)), None)
    if defaults is None:
        raise _cannot("image_processor_type", kind[:60], "CLIPImageProcessor or SiglipImageProcessor")
    known = {part.name for part in fields(ImageKeys)}
    for key, value in stated.items():
        if value and key not in known | _NO_PIXELS:
            raise _cannot(key[:60], type(value).__name__, "nothing")
    kept = {key: value for key, value in stated.items() if key in known and value is not None}
    keys = from_mapping(ImageKeys, {**defaults, **kept})
    if abs(keys.rescale_factor * 255 - 1) > 1e-6:
        raise _cannot("rescale_factor", f"{keys.rescale_factor:g}", "1/255")
    interpolation = "bicubic" if keys.resample == 3 else "bilinear"
    shape = {"size": size, "resize": _resize(keys, size), "interpolation": interpolation}
    return from_mapping(Preprocess, {**shape, "mean": keys.image_mean, "std": keys.image_std})


def preprocess_to_transformers(preprocess: Preprocess, family: str = "clip") -> dict[str, Any]:
    """Write preprocessor_config.json; the training margin and flip have no place there."""
    height, width = preprocess.size
    squash = preprocess.resize == "squash"
    return {
        "image_processor_type": f"{FAMILIES[family]}ImageProcessor",
        "processor_class": f"{FAMILIES[family]}Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width} if squash else {"shortest_edge": min(height, width)},
        "resample": 3 if preprocess.interpolation == "bicubic" else 2,
        "do_center_crop": not squash,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def _resize(keys: ImageKeys, size: tuple[int, int]) -> str:
    """Return how the image reaches the tower's size, or refuse a size that it does not reach."""
    wanted = {"height": size[0], "width": size[1]}
    given = {"shortest_edge": keys.size} if isinstance(keys.size, int) else _sides(keys.size)
    cut = _sides((keys.crop_size,) * 2 if isinstance(keys.crop_size, int) else keys.crop_size)
    if keys.do_center_crop and cut != wanted:
        raise _cannot("crop_size", cut, f"{wanted}, the size of the image tower")
    if given == wanted:
        return "squash"
    if given == {"shortest_edge": min(size)} and size[0] == size[1] and keys.do_center_crop:
        return "shortest"
    raise _cannot("size", given, f"{wanted}, or its shortest edge and a center crop")


def _sides(size: tuple[int, int] | Mapping[str, int | None] | None) -> dict[str, int]:
    if isinstance(size, tuple):
        return {"height": size[0], "width": size[1]}
    return {name: side for name, side in (size or {}).items() if side is not None}


def _tower_keys(config: Mapping[str, Any], family: str, part: str) -> TowerKeys:
    """Read one tower's keys; the older `*_config_dict` replaces the table with all its defaults."""
    older = config.get(f"{part}_dict")
    table = config.get(part) if older is None else older
    if not isinstance(table, Mapping):
        raise wrong_type(part, table, "a table")
    known = {key.name for key in fields(TowerKeys)}
    stated = {name: value for name, value in table.items() if name in known}
    return from_mapping(TowerKeys, {**_DEFAULTS[family, part], **stated}, where=part)


def _clip(config: Mapping[str, Any], vision: TowerKeys, text: TowerKeys) -> ClipConfig:
    if vision.hidden_act != text.hidden_act:
        raise _cannot("hidden_act", f"{text.hidden_act} and {vision.hidden_act}", "the same in both towers")
    width = config.get("projection_dim", 512)
    if type(width) is not int:
        raise wrong_type("projection_dim", width, "a whole number")
    end_id = NO_TOKEN if text.eos_token_id in (None, LEGACY_END) else text.eos_token_id
    # CLIPModel does not use bos_token_id, and many files hold 0.
    words = TextConfig(**_shape(text, TEXT_KEYS), start_id=NO_TOKEN, end_id=end_id)
    tower, activation = VitConfig(**_vision_shape(vision)), ACTIVATIONS[vision.hidden_act]
    return ClipConfig(width, tower, words, activation, vision.layer_norm_eps)


def _siglip(_: Mapping[str, Any], vision: TowerKeys, text: TowerKeys) -> ClipConfig:
    activation, text_activation = ACTIVATIONS[vision.hidden_act], ACTIVATIONS[text.hidden_act]
    return ClipConfig(
        text.projection_size or text.hidden_size,
        SiglipVisionConfig(**_vision_shape(vision)),
        SiglipTextConfig(**_shape(text, TEXT_KEYS)),
        activation,
        vision.layer_norm_eps,
        logit_scale_init=math.log(10),
        logit_scale_max=NO_CEILING,
        text_activation=None if text_activation == activation else text_activation,
        logit_bias_init=-10.0,
    )


def _vision_shape(keys: TowerKeys) -> dict[str, Any]:
    side = keys.image_size
    return {"image_size": (side, side) if isinstance(side, int) else side, **_shape(keys, VISION_KEYS)}


def _shape(keys: TowerKeys, table: Mapping[str, str]) -> dict[str, Any]:
    shape = {ours: getattr(keys, theirs) for theirs, ours in table.items()}
    return shape | {"mlp_ratio": mlp_ratio(keys.hidden_size, keys.intermediate_size)}


def _keys_of(tower: Any, table: Mapping[str, str], activation: Activation) -> dict[str, Any]:
    """Return the keys of a tower's shape; the inverse of `_shape`."""
    return {
        **{theirs: getattr(tower, ours) for theirs, ours in table.items()},
        "intermediate_size": int(tower.width * tower.mlp_ratio),
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation),
    }


def _cannot(name: str, found: object, expected: object) -> UnsupportedError:
    what = "the configuration asks for something that these towers cannot do"
    return UnsupportedError(
        what, where=name, found=found, expected=expected, fix="use transformers for this model"
    )
