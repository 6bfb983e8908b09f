"""Translate between our configuration and open_clip's; its weights are in OpenAI's layout.

`open_clip_config.json` is where it records activation, heads and preprocessing. Whatever it may
say that our towers cannot do is refused by its name; what only matters in training is ignored.

Source: open_clip 3.3, `model.py` (`CLIPVisionCfg`, `CLIPTextCfg`), `transform.py` (`PreprocessCfg`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from diptych.core.errors import UnsupportedError, UsageError
from diptych.core.settings import from_mapping, wrong_type
from diptych.data.images.transforms import CLIP_MEAN, CLIP_STD, Preprocess
from diptych.models.formats.openai import bias_init, clean, rename, to_openai_state
from diptych.models.towers.config import NO_TOKEN, Activation, ClipConfig, ResNetConfig, TextConfig, VitConfig

EPS = 1e-5  # of torch's LayerNorm, where a configuration states none
TANH = {"approximate": "tanh"}

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
    patch_size: Sizes | None = 16
    image_size: Sizes = 224
    act_kwargs: Mapping[str, Plain] | None = None
    norm_kwargs: Mapping[str, Plain] | None = None


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
    pool_type: Literal["argmax", "eos"] = "argmax"
    act_kwargs: Mapping[str, Plain] | None = None
    norm_kwargs: Mapping[str, Plain] | None = None


@dataclass(frozen=True, slots=True)
class ModelCfg:
    """`model_cfg` of an open_clip_config.json."""

    embed_dim: int
    vision_cfg: VisionCfg
    text_cfg: TextCfg
    quick_gelu: bool = False
    init_logit_scale: float | None = None
    init_logit_bias: float | None = None


@dataclass(frozen=True, slots=True)
class PreprocessCfg:
    """`preprocess_cfg` of an open_clip_config.json; the size is the tower's."""

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    resize_mode: Literal["shortest", "squash"] = "shortest"
    mode: Literal["RGB"] = "RGB"


IGNORED: dict[str, set[str]] = {
    "model_cfg": {"custom_text", "output_dict", "nonscalar_logit_scale", "cast_dtype"},
    "vision_cfg": {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads",
                   "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
                   "timm_drop_path"},
    "text_cfg": {"pad_id", "output_tokens", "hf_tokenizer_name", "tokenizer_kwargs", "hf_model_pretrained",
                 "hf_proj_type", "hf_pooler_type"},
    "preprocess_cfg": {"size", "fill_color"},
}  # fmt: skip
"""Keys that change nothing about the embeddings of these towers (training, file names, other towers)."""

NEUTRAL: dict[str, dict[str, Plain]] = {
    "vision_cfg": {"pos_embed_type": "learnable", "pool_type": "tok"},
    "text_cfg": {"proj_type": "linear"},
}
"""Keys whose one value says what our towers do anyway; for all others None and False say so."""


def from_open_clip(
    model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[ClipConfig, dict[str, Tensor]]:
    """Read a configuration and weights of open_clip.

    Args:
        model_cfg: the `model_cfg` of an open_clip_config.json.
        state: their tensors by name, with or without the `text.` of CustomTextCLIP.

    Returns:
        Our configuration, and our tensors by name in float32, which may share memory with theirs.

    Raises:
        SettingsError: the configuration says something that our towers cannot do, or is malformed.
    """
    cfg = _parse(ModelCfg, model_cfg, "model_cfg")
    vision_eps, text_eps = _eps(cfg.vision_cfg.norm_kwargs), _eps(cfg.text_cfg.norm_kwargs)
    resnet = isinstance(cfg.vision_cfg.layers, tuple)
    if vision_eps != text_eps and not resnet:
        raise _cannot("norm_kwargs", f"{vision_eps:g} and {text_eps:g}", "one eps for both towers")
    text_activation = _activation(cfg.quick_gelu, cfg.text_cfg.act_kwargs)
    if not resnet and _activation(cfg.quick_gelu, cfg.vision_cfg.act_kwargs) != text_activation:
        raise _cannot("act_kwargs", "two activations", "one activation for both towers")
    config = ClipConfig(
        cfg.embed_dim,
        _resnet(cfg.vision_cfg) if resnet else _vit(cfg.vision_cfg),
        _text(cfg.text_cfg),
        activation=text_activation,
        layer_norm_eps=text_eps,
        logit_bias_init=bias_init(state, cfg.init_logit_bias),
    )
    if cfg.init_logit_scale is not None:
        config = replace(config, logit_scale_init=cfg.init_logit_scale)
    return config, rename(clean(state))


def to_open_clip(config: ClipConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write our configuration and weights as open_clip's; the inverse of `from_open_clip`.

    Raises:
        UsageError: open_clip has no such tower.
    """
    text: dict[str, Any] = {
        name: getattr(config.text, name)
        for name in ("context_length", "vocab_size", "width", "heads", "layers")
    }
    if config.text.mlp_ratio != TextCfg().mlp_ratio:
        text["mlp_ratio"] = config.text.mlp_ratio
    if config.text.end_id != config.text.vocab_size - 1:
        text |= {"pool_type": "eos", "eos_id": config.text.end_id}
    vision = _vision_cfg(config)
    for part in (text, vision):
        if config.layer_norm_eps != EPS:
            part["norm_kwargs"] = {"eps": config.layer_norm_eps}
        if config.activation not in ("quick_gelu", "gelu"):
            part["act_kwargs"] = TANH
    model_cfg = {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.activation == "quick_gelu",
        "init_logit_scale": config.logit_scale_init,
        **({} if config.logit_bias_init is None else {"init_logit_bias": config.logit_bias_init}),
        "vision_cfg": vision,
        "text_cfg": text,
    }
    return model_cfg, to_openai_state(state)


def preprocess_from_open_clip(cfg: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """Read `preprocess_cfg`; what it leaves out is open_clip's default, and the size is the tower's.

    Raises:
        SettingsError: it says something that our transform cannot do, or is malformed.
    """
    stated = {name: value for name, value in cfg.items() if value is not None}
    found = _parse(PreprocessCfg, stated, "preprocess_cfg")
    # "random" is about training, and for towers that are not square `ResizeKeepRatio` is not told the filter:
    # open_clip's evaluation transform takes bicubic then.
    linear = found.interpolation == "bilinear" and (found.resize_mode == "squash" or size[0] == size[1])
    return Preprocess(size, found.resize_mode, "bilinear" if linear else "bicubic", found.mean, found.std)


def preprocess_to_open_clip(preprocess: Preprocess) -> dict[str, Any]:
    """Write `preprocess_cfg`; the inverse of `preprocess_from_open_clip`.

    Raises:
        UsageError: open_clip has no such transform.
    """
    oblong = preprocess.size[0] != preprocess.size[1] and preprocess.resize == "shortest"
    if oblong and preprocess.interpolation != "bicubic":
        raise UsageError(
            "open_clip has no such transform",
            where="preprocess.interpolation",
            found=f"{preprocess.interpolation}, shortest side to {preprocess.size}",
            expected="bicubic, where the target is not square",
            fix="keep the model as a checkpoint of diptych",
        )
    return {
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
    }


def _parse(cls: type[T], mapping: Mapping[str, Any], place: str) -> T:
    """Build one table of the configuration, after leaving out the keys that say nothing for us."""
    if not isinstance(mapping, Mapping):
        raise wrong_type(place, mapping, "a table")
    known = {part.name for part in fields(cls)}  # type: ignore[arg-type]
    kept: dict[str, Any] = {}
    for name, value in mapping.items():
        neutral = value == NEUTRAL.get(place, {}).get(name, None) or value is False
        if name in known:
            kept[name] = _nested(name, value)
        elif name not in IGNORED[place] and not neutral:
            raise _cannot(f"{place}.{name}", repr(value)[:60], "one of " + ", ".join(sorted(known)))
    return from_mapping(cls, kept, where=place)


def _nested(name: str, value: Any) -> Any:
    cls = {"vision_cfg": VisionCfg, "text_cfg": TextCfg}.get(name)
    return value if cls is None else _parse(cls, value, name)


def _cannot(name: str, found: str, expected: str) -> UnsupportedError:
    return UnsupportedError(
        "the configuration asks for something that these towers cannot do",
        where=name,
        found=found,
        expected=expected,
        fix="use open_clip for this model",
    )


def _eps(norm_kwargs: Mapping[str, Plain] | None) -> float:
    found = dict(norm_kwargs or {})
    eps = found.pop("eps", EPS)
    if found or not isinstance(eps, float):
        raise _cannot("norm_kwargs", str(norm_kwargs), "eps alone")
    return eps


def _activation(quick_gelu: bool, act_kwargs: Mapping[str, Plain] | None) -> Activation:
    if not act_kwargs:
        return "quick_gelu" if quick_gelu else "gelu"
    if act_kwargs == TANH and not quick_gelu:
        return "gelu_tanh"
    raise _cannot("act_kwargs", str(act_kwargs), "none")


def _pair(value: Sizes, name: str) -> tuple[int, int]:
    sizes = (value, value) if isinstance(value, int) else value
    if len(sizes) != 2:
        raise _cannot(name, str(value), "height and width")
    return sizes[0], sizes[1]


def _require_head_width(cfg: VisionCfg) -> None:
    if cfg.head_width < 1:
        raise _cannot("vision_cfg.head_width", str(cfg.head_width), "the width of an attention head")


def _vit(cfg: VisionCfg) -> VitConfig:
    assert isinstance(cfg.layers, int)
    _require_head_width(cfg)
    patch = _pair(cfg.patch_size or 0, "vision_cfg.patch_size")
    if patch[0] != patch[1]:
        raise _cannot("vision_cfg.patch_size", str(patch), "square patches")
    return VitConfig(
        _pair(cfg.image_size, "vision_cfg.image_size"),
        patch[0],
        cfg.width,
        cfg.layers,
        cfg.width // cfg.head_width,
        cfg.mlp_ratio,
    )


def _resnet(cfg: VisionCfg) -> ResNetConfig:
    stages = cfg.layers
    _require_head_width(cfg)
    if not isinstance(stages, tuple) or len(stages) != 4:
        raise _cannot("vision_cfg.layers", str(stages), "four numbers of blocks")
    size = _pair(cfg.image_size, "vision_cfg.image_size")
    heads = cfg.width * 32 // cfg.head_width
    return ResNetConfig(size, (stages[0], stages[1], stages[2], stages[3]), cfg.width, heads)


def _text(cfg: TextCfg) -> TextConfig:
    return TextConfig(
        cfg.context_length,
        cfg.vocab_size,
        cfg.width,
        cfg.layers,
        cfg.heads,
        start_id=NO_TOKEN,
        end_id=cfg.eos_id if cfg.pool_type == "eos" else NO_TOKEN,
        mlp_ratio=cfg.mlp_ratio,
    )


def _vision_cfg(config: ClipConfig) -> dict[str, Any]:
    vision = config.vision
    size = vision.image_size[0] if vision.image_size[0] == vision.image_size[1] else list(vision.image_size)
    found: dict[str, Any] = {"image_size": size, "width": vision.width}
    if isinstance(vision, VitConfig):
        found |= {"layers": vision.layers, "patch_size": vision.patch_size}
        found |= {"head_width": vision.width // vision.heads, "mlp_ratio": vision.mlp_ratio}
        return found
    if not isinstance(vision, ResNetConfig) or not vision.stem_pool or isinstance(size, list):
        stemless = isinstance(vision, ResNetConfig) and not vision.stem_pool
        raise UsageError(
            "open_clip has no such image tower",
            found="a ResNet without the stem's pool" if stemless else f"{vision.kind}, images of {size}",
            expected="the paper's ModifiedResNet on square images",
        )
    return found | {"layers": list(vision.layers), "head_width": vision.width * 32 // vision.heads}
