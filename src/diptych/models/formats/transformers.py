"""Translate between our configuration and weights and those of Hugging Face transformers' `CLIPModel`.

Reads and writes nothing itself: mappings in, mappings out. The differences: every name; projections are
stored transposed; preprocessing is spread over seven keys. ModifiedResNets have no form there.

Source: transformers 5.23 `models/clip/` (configuration, modelling, image processing) and the files that older
releases left on the hub (`*_config_dict`, `eos_token_id` 2, position ids, flat preprocessor_config.json).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from torch import Tensor

from diptych.core.errors import DataError, UnsupportedError, UsageError
from diptych.core.settings import from_mapping, wrong_type
from diptych.data.images.transforms import CLIP_MEAN, CLIP_STD, Preprocess
from diptych.models.formats.layouts import transformers_rows
from diptych.models.formats.mapping import read_rows, write_rows
from diptych.models.towers.config import NO_TOKEN, Activation, ClipConfig, TextConfig, VitConfig, mlp_ratio

T = TypeVar("T")

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
PROCESSORS = {"clip": "CLIP", "siglip": "Siglip"}
"""How the names of processor classes begin, by `model_type`."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224},
    "siglip": {"size": {"height": 224, "width": 224}, "do_center_crop": False},
}
"""What the image processor of a family does where its file does not say."""

_NO_PIXELS = {
    "image_processor_type", "feature_extractor_type", "processor_class", "_processor_class",
    "do_convert_rgb", "return_tensors", "data_format", "input_data_format", "device", "disable_grouping",
    "use_fast", "auto_map", "_valid_processor_keys", "name_or_path", "_name_or_path", "transformers_version",
}  # fmt: skip
"""Keys of an image processor that change no pixel of an RGB image; others must be off, or known."""

LEGACY_END = 2
"""Configurations from before 2023 say this whatever the vocabulary; texts are read at the largest id then."""

_NOT_WEIGHTS = re.compile(r".*\.embeddings\.position_ids")


@dataclass(frozen=True, slots=True)
class TextKeys:
    """The keys of `text_config` that shape the tower, with transformers' defaults."""

    vocab_size: int = 49_408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int | None = 49_407


@dataclass(frozen=True, slots=True)
class VisionKeys:
    """The keys of `vision_config` that shape the tower, with transformers' defaults."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """The keys of a CLIP or SigLIP image processor that shape the pixels; mean and deviation are required."""

    size: int | tuple[int, int] | Mapping[str, int | None]
    do_resize: bool = True
    resample: int = 3
    do_center_crop: bool = True
    crop_size: int | tuple[int, int] | Mapping[str, int | None] | None = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD


def from_transformers(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[ClipConfig, dict[str, Tensor]]:
    """Read a configuration and weights of transformers' `CLIPModel`.

    Args:
        config: the content of config.json; only the keys that shape the towers are read.
        state: their tensors by name.

    Returns:
        Our configuration, and our tensors by name in float32, which may share memory with theirs.

    Raises:
        SettingsError: the configuration says something that our towers cannot do, or is malformed.
        DataError: a tensor with an unknown name.
    """
    text, vision = _keys(TextKeys, config, "text_config"), _keys(VisionKeys, config, "vision_config")
    for name in ("hidden_act", "layer_norm_eps"):
        if getattr(text, name) != getattr(vision, name):
            found = f"{getattr(text, name)} and {getattr(vision, name)}"
            raise _cannot(name, found, "the same in both towers")
    if text.hidden_act not in ACTIVATIONS:
        raise _cannot("hidden_act", text.hidden_act, " or ".join(ACTIVATIONS))
    if vision.num_channels != 3:
        raise _cannot("vision_config.num_channels", str(vision.num_channels), "3")
    projection = config.get("projection_dim", 512)
    if type(projection) is not int:
        raise wrong_type("projection_dim", projection, "a whole number")
    rows = transformers_rows(vision.num_hidden_layers, text.num_hidden_layers)
    tensors = without_positions(state)
    if unknown := sorted(set(tensors) - {row.theirs for row in rows}):
        raise DataError(
            "the weights are not those of transformers' CLIPModel",
            found=f"a tensor called {unknown[0]}",
            expected="the names of CLIPModel",
            fix="save the whole CLIPModel with save_pretrained",
        )
    return (
        ClipConfig(
            projection,
            _vision(vision),
            _text(text),
            activation=cast(Activation, ACTIVATIONS[text.hidden_act]),
            layer_norm_eps=text.layer_norm_eps,
        ),
        read_rows(rows, tensors, complete=False),
    )


def without_positions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the position numbers that older releases saved, and make the scale 0-D."""
    kept = {name: tensor for name, tensor in state.items() if not _NOT_WEIGHTS.fullmatch(name)}
    if "logit_scale" in kept and kept["logit_scale"].numel() == 1:
        kept["logit_scale"] = kept["logit_scale"].reshape(())
    return kept


def to_transformers(
    config: ClipConfig, state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write our configuration and weights as transformers' `CLIPModel`; the inverse of `from_transformers`.

    Raises:
        UsageError: transformers has no such tower.
    """
    vision, text = config.vision, config.text
    square = vision.image_size[0] == vision.image_size[1]
    plain = square and config.logit_bias_init is None
    if not isinstance(vision, VitConfig) or not isinstance(text, TextConfig) or not plain:
        bias = ", a logit_bias" * (config.logit_bias_init is not None)
        raise UsageError(
            "transformers has no such towers",
            found=f"{vision.kind} on images of {vision.image_size}, text of {text.kind}{bias}",
            expected="a vision Transformer on square images, and CLIP's text Transformer",
        )
    shared = {
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_eps": config.layer_norm_eps,
        "projection_dim": config.embed_dim,
    }
    theirs: dict[str, Any] = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.logit_scale_init,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "bos_token_id": text.start_id,
            "eos_token_id": text.end_id,
            "pad_token_id": text.end_id,
            **_shape(text),
            **shared,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.image_size[0],
            "patch_size": vision.patch_size,
            "num_channels": 3,
            **_shape(vision),
            **shared,
        },
    }
    return theirs, write_rows(transformers_rows(vision.layers, text.layers), state)


def preprocess_from_transformers(
    processor: Mapping[str, Any], size: tuple[int, int], family: str
) -> Preprocess:
    """Read an image processor's settings.

    Args:
        processor: preprocessor_config.json, or processor_config.json with `image_processor` in it.
        size: (height, width) that the image tower wants.
        family: `model_type` of the model.

    Raises:
        SettingsError: they say something that our transform cannot do, or are malformed.
    """
    found = processor.get("image_processor", processor)
    if not isinstance(found, Mapping):
        raise wrong_type("image_processor", found, "a table")
    known = {part.name for part in fields(ImageKeys)}
    if unsaid := [name for name in ("image_mean", "image_std") if found.get(name) is None]:
        # The defaults of CLIP's processor are not SigLIP's, and every saved processor states them.
        raise _cannot(unsaid[0], "nothing", "three numbers")
    kind = str(found.get("image_processor_type") or found.get("feature_extractor_type") or PROCESSORS[family])
    if not kind.startswith(tuple(PROCESSORS.values())):
        raise _cannot("image_processor_type", kind[:60], "CLIPImageProcessor or SiglipImageProcessor")
    if others := [key for key, value in found.items() if value and key not in known | _NO_PIXELS]:
        raise _cannot(others[0][:60], type(found[others[0]]).__name__, "nothing")
    stated = {key: value for key, value in found.items() if key in known and value is not None}
    keys = from_mapping(ImageKeys, {**_DEFAULTS["clip" if kind.startswith("CLIP") else "siglip"], **stated})
    if not (keys.do_resize and keys.do_rescale and keys.do_normalize):
        raise _cannot("do_resize, do_rescale, do_normalize", "one that is off", "all on")
    if abs(keys.rescale_factor * 255 - 1) > 1e-6:
        raise _cannot("rescale_factor", f"{keys.rescale_factor:g}", "1/255")
    if keys.resample not in (2, 3):
        raise _cannot("resample", str(keys.resample), "2 (bilinear) or 3 (bicubic)")
    resize = _resize(keys, size)
    interpolation = "bicubic" if keys.resample == 3 else "bilinear"
    return from_mapping(
        Preprocess,
        {
            "size": size,
            "resize": resize,
            "interpolation": interpolation,
            "mean": keys.image_mean,
            "std": keys.image_std,
        },
    )


def preprocess_to_transformers(preprocess: Preprocess, family: str = "clip") -> dict[str, Any]:
    """Write the settings of an image processor; the inverse of `preprocess_from_transformers`.

    Args:
        preprocess: the transform; its training margin and flip have no place there.
        family: `model_type` of the model.
    """
    height, width = preprocess.size
    squash = preprocess.resize == "squash"
    prefix = PROCESSORS[family]
    return {
        "image_processor_type": f"{prefix}ImageProcessor",
        "processor_class": f"{prefix}Processor",
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
        raise _cannot("crop_size", str(cut), f"{wanted}, the size of the image tower")
    if given == wanted:
        return "squash"
    if given == {"shortest_edge": min(size)} and size[0] == size[1] and keys.do_center_crop:
        return "shortest"
    raise _cannot("size", str(given), f"{wanted}, or its shortest edge and a centre crop")


def _sides(size: tuple[int, int] | Mapping[str, int | None] | None) -> dict[str, int]:
    if isinstance(size, tuple):
        return {"height": size[0], "width": size[1]}
    return {name: side for name, side in (size or {}).items() if side is not None}


def _keys(cls: type[T], config: Mapping[str, Any], place: str) -> T:
    """Read one tower's keys; the older `*_config_dict` replaces the table with all its defaults."""
    older = config.get(f"{place}_dict")
    table = config.get(place) if older is None else older
    if not isinstance(table, Mapping):
        raise wrong_type(place, table, "a table")
    known = {part.name for part in fields(cls)}  # type: ignore[arg-type]
    return from_mapping(cls, {name: value for name, value in table.items() if name in known}, where=place)


def _cannot(name: str, found: str, expected: str) -> UnsupportedError:
    return UnsupportedError(
        "the configuration asks for something that these towers cannot do",
        where=name,
        found=found,
        expected=expected,
        fix="use transformers for this model",
    )


def _text(keys: TextKeys) -> TextConfig:
    told = keys.eos_token_id not in (None, LEGACY_END)
    return TextConfig(
        keys.max_position_embeddings,
        keys.vocab_size,
        keys.hidden_size,
        keys.num_hidden_layers,
        keys.num_attention_heads,
        start_id=NO_TOKEN,  # CLIPModel does not use bos_token_id, and many files hold 0
        end_id=keys.eos_token_id if told and keys.eos_token_id is not None else NO_TOKEN,
        mlp_ratio=mlp_ratio(keys.hidden_size, keys.intermediate_size),
    )


def _vision(keys: VisionKeys) -> VitConfig:
    return VitConfig(
        (keys.image_size, keys.image_size),
        keys.patch_size,
        keys.hidden_size,
        keys.num_hidden_layers,
        keys.num_attention_heads,
        mlp_ratio(keys.hidden_size, keys.intermediate_size),
    )


def _shape(tower: TextConfig | VitConfig) -> dict[str, int]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": int(tower.width * tower.mlp_ratio),
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
    }
