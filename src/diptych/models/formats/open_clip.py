"""Translate between our configuration and open_clip's; mappings in, mappings out.

Whatever `open_clip_config.json` may say that our towers cannot do is refused by its name; what only matters
in training is ignored. The ids of a SigLIP's tokens are not in the configuration: take them from the
tokenizer, with `ClipConfig.with_tokenizer`.

Source: open_clip 3.3, `model.py`, `transform.py`, `factory.get_tokenizer`, `tokenizer.py`; timm 1.0
`vision_transformer.py`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from diptych.core.errors import UnsupportedError, unknown_name
from diptych.core.settings import from_mapping, wrong_type
from diptych.data.images.transforms import CLIP_MEAN, CLIP_STD, Preprocess
from diptych.data.tokenizers.settings import CONFIG as TOKENIZER_CONFIG
from diptych.data.tokenizers.siglip_engines import Cleaning
from diptych.data.tokenizers.vocabulary import read_object
from diptych.models.formats.openai import bias_init
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
)
from diptych.models.towers.presets import TRUNK_EPS, TRUNKS, trunk_name

EPS = 1e-5  # of torch's LayerNorm, where a configuration states none
SHOWN_CHARACTERS = 80  # of a name in a message

T = TypeVar("T")
Plain = str | int | float | bool | None
Sizes = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VisionCfg:
    """The keys of `vision_cfg` that shape the tower, with open_clip's defaults."""

    layers: Sizes = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: Sizes = 16
    image_size: Sizes = 224
    act_kwargs: Mapping[str, Plain] | None = None
    norm_kwargs: Mapping[str, Plain] | None = None
    timm_model_name: str = ""
    timm_pool: str = ""
    timm_proj: str = ""


@dataclass(frozen=True, slots=True)
class TextCfg:
    """The keys of `text_cfg` that shape the tower, with open_clip's defaults."""

    context_length: int = 77
    vocab_size: int = 49_408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    eos_id: int = 2
    no_causal_mask: bool = False
    pool_type: str = "argmax"
    proj_type: str = "linear"
    proj_bias: bool = False
    act_kwargs: Mapping[str, Plain] | None = None
    norm_kwargs: Mapping[str, Plain] | None = None


@dataclass(frozen=True, slots=True)
class ModelCfg:
    """The other keys of `model_cfg`."""

    embed_dim: int
    quick_gelu: bool = False
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float | None = None


@dataclass(frozen=True, slots=True)
class PreprocessCfg:
    """`preprocess_cfg` of an open_clip_config.json; the size is the tower's."""

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    resize_mode: Literal["shortest", "squash"] = "shortest"
    mode: Literal["RGB"] = "RGB"


# Keys that change nothing about the embeddings of these towers (training, file names, other towers).
IGNORED: dict[str, set[str]] = {
    "model_cfg": {"vision_cfg", "text_cfg", "custom_text", "output_dict", "nonscalar_logit_scale",
                  "cast_dtype"},
    "vision_cfg": {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads",
                   "timm_model_pretrained", "timm_proj_bias", "timm_drop", "timm_drop_path"},
    "text_cfg": {"pad_id", "output_tokens", "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode",
                 "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"},
    "preprocess_cfg": {"size", "fill_color"},
}  # fmt: skip
# Other keys whose one value says what our towers do anyway; for the rest null and false say so.
NEUTRAL = {"vision_cfg": {"pos_embed_type": "learnable", "pool_type": "tok"}}
# Values that a family's towers have.
ALLOWED: dict[str, dict[str, tuple[Plain, ...]]] = {
    "clip": {"no_causal_mask": (False,), "pool_type": ("argmax", "eos"), "proj_type": ("linear",),
             "proj_bias": (False,)},
    "siglip": {"no_causal_mask": (True,), "pool_type": ("last",), "proj_type": ("linear", "none"),
               "timm_pool": ("map",), "timm_proj": ("none",)},
}  # fmt: skip

TEXT_KEYS = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")  # theirs and ours
_TOKENIZERS = {32_000: "timm/ViT-B-16-SigLIP", 250_000: "timm/ViT-B-16-SigLIP-i18n-256"}
_NEWEST_TOKENIZER = "timm/ViT-B-16-SigLIP2"


def open_clip_family(model_cfg: Mapping[str, Any]) -> str:
    """Return "clip" or "siglip", or what else an open_clip configuration describes."""
    vision, text = (model_cfg.get(name) for name in ("vision_cfg", "text_cfg"))
    timm = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    language_model = text.get("hf_model_name") if isinstance(text, Mapping) else None
    if model_cfg.get("multimodal_cfg") is not None:
        return "CoCa (multimodal_cfg)"
    if isinstance(language_model, str):
        return f"a text tower of transformers (hf_model_name {language_model[:SHOWN_CHARACTERS]})"
    if not isinstance(timm, str):
        return "clip"
    other = f"an image tower of timm (timm_model_name {timm[:SHOWN_CHARACTERS]})"
    return "siglip" if "siglip" in timm else other


def from_open_clip(model_cfg: Mapping[str, Any], names: Collection[str]) -> ClipConfig:
    """Read the `model_cfg` of an open_clip_config.json; the tensors' names tell whether there is a bias.

    Raises:
        SettingsError: the configuration says something that our towers cannot do, or is malformed.
    """
    family = open_clip_family(model_cfg)
    cfg = _parse(ModelCfg, model_cfg, "model_cfg")
    vision = _parse(VisionCfg, model_cfg.get("vision_cfg"), "vision_cfg")
    text = _parse(TextCfg, model_cfg.get("text_cfg"), "text_cfg")
    for name, allowed in ALLOWED[family].items():
        part, keys = ("vision_cfg", vision) if name.startswith("timm") else ("text_cfg", text)
        if (value := getattr(keys, name)) not in allowed:
            raise _cannot(f"{part}.{name}", repr(value), " or ".join(map(repr, allowed)))
    ours = (_siglip if family == "siglip" else _clip)(cfg, vision, text)
    bias = bias_init(names, cfg.init_logit_bias)
    ours = replace(ours, logit_scale_init=cfg.init_logit_scale, logit_bias_init=bias)
    check_sizes(ours)
    return ours


def to_open_clip(config: ClipConfig, *, clean: str = "canonicalize") -> dict[str, Any]:
    """Write `model_cfg`; the inverse of `from_open_clip`.

    A SigLIP's tokenizer is the published one of that vocabulary's size; open_clip takes the files of a local
    folder instead. `clean` is how open_clip cleans its texts (`SiglipTokenizer.save_for_open_clip`).

    Raises:
        UsageError: open_clip has no such tower, or timm builds none.
    """
    ours, activation = config.text, config.text_activation or config.activation
    norm = {"norm_kwargs": {"eps": config.layer_norm_eps}} if config.layer_norm_eps != EPS else {}
    tanh = {"act_kwargs": {"approximate": "tanh"}} if activation == "gelu_tanh" else {}
    text: dict[str, Any] = {name: getattr(ours, name) for name in TEXT_KEYS} | norm | tanh
    if ours.mlp_ratio == TextCfg().mlp_ratio:
        del text["mlp_ratio"]
    model_cfg: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "quick_gelu": activation == "quick_gelu",
        "init_logit_scale": config.logit_scale_init,
        "vision_cfg": _vision_cfg(config) if ours.kind == "clip" else _siglip_vision_cfg(config),
        "text_cfg": text,
    }
    if config.logit_bias_init is not None:
        model_cfg["init_logit_bias"] = config.logit_bias_init
    if isinstance(ours, SiglipTextConfig):
        model_cfg["custom_text"] = True
        text |= {"no_causal_mask": True, "pool_type": "last", "tokenizer_kwargs": {"clean": clean}}
        text |= {"hf_tokenizer_name": _TOKENIZERS.get(ours.vocab_size, _NEWEST_TOKENIZER)}
        text |= {"proj_bias": True} if ours.head else {"proj_type": "none"}
    else:
        model_cfg["vision_cfg"] |= norm | tanh
        text |= {} if ours.end_id == ours.vocab_size - 1 else {"pool_type": "eos", "eos_id": ours.end_id}
    return model_cfg


def stated_cleaning(model_cfg: Mapping[str, Any], folder: Path) -> Cleaning | None:
    """Return the clean-up of a SigLIP's texts where the configuration states it; None elsewhere.

    `folder` is the tokenizer's. What changes ids otherwise is refused by its name.
    """
    text = model_cfg.get("text_cfg")
    text = text if isinstance(text, Mapping) else {}
    options = text.get("tokenizer_kwargs")
    options = dict(options) if isinstance(options, Mapping) else {}
    named = bool(text.get("hf_tokenizer_name"))  # then `HFTokenizer`, whose own file lower-cases
    clean = options.pop("clean", None) or ("whitespace" if named else "lower")
    allowed: tuple[Any, ...] = ("lower", "whitespace") if named else ("lower",)
    siglip = open_clip_family(model_cfg) == "siglip"
    if siglip:
        recorded = "diptych_cleaning" in read_object(folder / TOKENIZER_CONFIG)  # by `save_for_open_clip`
        allowed = (clean,) if recorded else ("canonicalize",)
    if clean not in allowed:
        raise _cannot("text_cfg.tokenizer_kwargs.clean", repr(clean)[:80], " or ".join(map(str, allowed)))
    others = {f"tokenizer_kwargs.{name}": value for name, value in options.items()}
    for name, value in {**others, "tokenizer_mode": text.get("tokenizer_mode")}.items():
        if value:
            raise _cannot(f"text_cfg.{name[:80]}", repr(value)[:80], "nothing")
    return "open_clip" if siglip and clean == "canonicalize" else None


def preprocess_from_open_clip(cfg: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """Read `preprocess_cfg`; what it leaves out is open_clip's default, and the size is the tower's."""
    keys = _parse(PreprocessCfg, cfg, "preprocess_cfg")
    # "random" is about training, and for towers that are not square `ResizeKeepRatio` is not told the filter:
    # open_clip's evaluation transform takes bicubic then.
    linear = keys.interpolation == "bilinear" and (keys.resize_mode == "squash" or size[0] == size[1])
    return Preprocess(size, keys.resize_mode, "bilinear" if linear else "bicubic", keys.mean, keys.std)


def preprocess_to_open_clip(preprocess: Preprocess) -> dict[str, Any]:
    """Write `preprocess_cfg`; the inverse of `preprocess_from_open_clip`."""
    oblong = preprocess.size[0] != preprocess.size[1] and preprocess.resize == "shortest"
    if oblong and preprocess.interpolation != "bicubic":
        found = f"interpolation {preprocess.interpolation}, shortest side to {preprocess.size}"
        expected = "bicubic, where the target is not square"
        raise UnsupportedError("open_clip has no such transform", found=found, expected=expected)
    return {
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
    }


def _parse(cls: type[T], table: Any, part: str) -> T:
    """Build one table of the configuration, after leaving out the keys that say nothing for us."""
    if not isinstance(table, Mapping):
        raise wrong_type(part, table, "a table")
    known = {key.name for key in fields(cls)}  # type: ignore[arg-type]
    neutral = NEUTRAL.get(part, {})
    for name, value in table.items():
        says_nothing = value is None or value is False or name in IGNORED[part]
        if name not in known and not says_nothing and value != neutral.get(name):
            raise _cannot(f"{part}.{name}", repr(value)[:60], "one of " + ", ".join(sorted(known)))
    stated = {name: value for name, value in table.items() if name in known and value is not None}
    return from_mapping(cls, stated, where=part)


def _clip(cfg: ModelCfg, vision: VisionCfg, text: TextCfg) -> ClipConfig:
    eps, activation = _eps(text.norm_kwargs), _activation(cfg.quick_gelu, text.act_kwargs)
    if vision.head_width < 1:
        raise _cannot("vision_cfg.head_width", vision.head_width, "the width of an attention head")
    size, layers = _pair(vision.image_size, "vision_cfg.image_size"), vision.layers
    tower: VitConfig | ResNetConfig
    if isinstance(layers, int):
        vision_eps, patch = _eps(vision.norm_kwargs), _pair(vision.patch_size, "vision_cfg.patch_size")
        if vision_eps != eps:
            raise _cannot("norm_kwargs", f"{vision_eps:g} and {eps:g}", "one eps for both towers")
        if _activation(cfg.quick_gelu, vision.act_kwargs) != activation:
            raise _cannot("act_kwargs", "two activations", "one activation for both towers")
        if patch[0] != patch[1]:
            raise _cannot("vision_cfg.patch_size", patch, "square patches")
        heads = vision.width // vision.head_width
        tower = VitConfig(size, patch[0], vision.width, layers, heads, vision.mlp_ratio)
    elif len(layers) == 4:
        stages = layers[0], layers[1], layers[2], layers[3]
        tower = ResNetConfig(size, stages, vision.width, vision.width * 32 // vision.head_width)
    else:
        raise _cannot("vision_cfg.layers", layers, "four numbers of blocks")
    end_id = text.eos_id if text.pool_type == "eos" else NO_TOKEN
    words = TextConfig(**{name: getattr(text, name) for name in TEXT_KEYS}, start_id=NO_TOKEN, end_id=end_id)
    return ClipConfig(cfg.embed_dim, tower, words, activation, eps)


def _siglip(cfg: ModelCfg, vision: VisionCfg, text: TextCfg) -> ClipConfig:
    name, eps = vision.timm_model_name, _eps(text.norm_kwargs)
    if name not in TRUNKS:
        raise unknown_name("timm model", name, TRUNKS, where="model_cfg: vision_cfg")
    trunk, activation = TRUNKS[name], _activation(cfg.quick_gelu, text.act_kwargs)
    head = text.proj_type == "linear"
    if head and not text.proj_bias:
        raise _cannot("text_cfg.proj_bias", False, "SigLIP's head with a bias")
    if eps != TRUNK_EPS:
        raise _cannot("norm_kwargs", f"{eps:g}", f"{TRUNK_EPS:g}, as in the image tower")
    size = _pair(vision.image_size, "vision_cfg.image_size")
    tower = trunk.patch_size, trunk.width, trunk.layers, trunk.heads, trunk.mlp_ratio
    return ClipConfig(
        cfg.embed_dim,
        SiglipVisionConfig(size, *tower),
        SiglipTextConfig(**{name: getattr(text, name) for name in TEXT_KEYS}, head=head),
        trunk.activation,
        eps,
        logit_scale_max=NO_CEILING,
        text_activation=None if activation == trunk.activation else activation,
    )


def _eps(norm_kwargs: Mapping[str, Plain] | None) -> float:
    kwargs = {"eps": EPS, **(norm_kwargs or {})}
    eps = kwargs["eps"]
    if len(kwargs) > 1 or not isinstance(eps, float):
        raise _cannot("norm_kwargs", norm_kwargs, "eps alone")
    return eps


def _activation(quick_gelu: bool, act_kwargs: Mapping[str, Plain] | None) -> Activation:
    if not act_kwargs:
        return "quick_gelu" if quick_gelu else "gelu"
    known: dict[Plain, Activation] = {"none": "gelu", "tanh": "gelu_tanh"}
    kind = act_kwargs.get("approximate")
    if quick_gelu or len(act_kwargs) > 1 or kind not in known:
        raise _cannot("act_kwargs", dict(act_kwargs), "approximate: none or tanh, without quick_gelu")
    return known[kind]


def _pair(sizes: Sizes, name: str) -> tuple[int, int]:
    sizes = (sizes, sizes) if isinstance(sizes, int) else sizes
    if len(sizes) != 2:
        raise _cannot(name, sizes, "height and width")
    return sizes[0], sizes[1]


def _siglip_vision_cfg(config: ClipConfig) -> dict[str, Any]:
    vision = config.vision
    if not isinstance(vision, SiglipVisionConfig) or config.layer_norm_eps != TRUNK_EPS:
        found = f"{vision.kind} with a layer_norm_eps of {config.layer_norm_eps:g}"
        raise _no_image_tower(found, f"siglip with {TRUNK_EPS:g}")
    return {
        "image_size": _side_or_sides(vision.image_size),
        "timm_model_name": trunk_name(vision, config.activation),
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }


def _vision_cfg(config: ClipConfig) -> dict[str, Any]:
    vision, size = config.vision, _side_or_sides(config.vision.image_size)
    shared = {"image_size": size, "width": vision.width}
    if isinstance(vision, VitConfig):
        heads = {"head_width": vision.width // vision.heads, "mlp_ratio": vision.mlp_ratio}
        return {**shared, "layers": vision.layers, "patch_size": vision.patch_size, **heads}
    if isinstance(vision, ResNetConfig) and vision.stem_pool and isinstance(size, int):
        return {**shared, "layers": list(vision.layers), "head_width": vision.width * 32 // vision.heads}
    stemless = isinstance(vision, ResNetConfig) and not vision.stem_pool
    found = "a ResNet without the stem's pool" if stemless else f"{vision.kind}, images of {size}"
    raise _no_image_tower(found, "the paper's ModifiedResNet on square images")


def _no_image_tower(found: str, expected: str) -> UnsupportedError:
    return UnsupportedError("open_clip has no such image tower", found=found, expected=expected)


def _side_or_sides(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _cannot(name: str, found: object, expected: object) -> UnsupportedError:
    what, fix = (
        "the configuration asks for something that diptych does not have",
        "use open_clip for this model",
    )
    return UnsupportedError(what, where=name, found=found, expected=expected, fix=fix)
