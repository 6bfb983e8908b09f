"""Describe a CLIP model completely: both towers, the shared space and the temperature.

A configuration is plain data that says everything that the weights do not (activation, heads, end token).

Source: Radford et al. 2021 (CLIP), tables 18 to 20; OpenAI's published ``clip/model.py``. Zhai et al. 2023
(SigLIP) and Tschannen et al. 2025 (SigLIP 2) for the towers of that family.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from diptych.core.errors import SettingsError, UnsupportedError, unknown_name
from diptych.core.settings import to_mapping

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
ACTIVATIONS: tuple[Activation, ...] = ("quick_gelu", "gelu", "gelu_tanh")

# The id of a token that a tokenizer does not have (SigLIP's texts have no start token), or that the files of
# others do not tell: their tokenizer does, see `tokenizers.with_ids`.
NO_TOKEN = -1

NO_CEILING = 1e9  # of the scale: SigLIP's published ones (up to 118) pass CLIP's 100
MAX_LAYERS, MAX_SIZE = 1000, 2**24  # far beyond any model
MAX_LOGIT = 80.0  # the exponential of more does not fit into float32
RESNET_EXPANSION = 4  # every bottleneck widens its planes by this factor
RESNET_STAGES = 4  # the last three halve the image


@dataclass(frozen=True, slots=True)
class _Patches:
    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


@dataclass(frozen=True, slots=True)
class VitConfig(_Patches):
    """Shape of a vision Transformer: square patches over an image of (height, width) pixels."""

    patch_size: int = 32
    kind: Literal["vit"] = "vit"

    def __post_init__(self) -> None:
        _require_positive("vision", patch_size=self.patch_size, layers=self.layers)
        _require_heads("vision", self.width, self.heads, self.mlp_ratio)
        _require_grid(self.image_size, self.patch_size)


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Shape of a ModifiedResNet: blocks per stage, stem width, heads of the attention pool.

    ``stem_pool=False`` leaves out the stem's average pool, so the total stride is 16 instead of 32 and a
    small image keeps a grid worth pooling over (64 pixels: 4x4 instead of 2x2). ``residual_gain`` is where
    the gain of every block's last BatchNorm starts: the paper's 0 makes each block begin as its shortcut,
    right for 32 epochs of deep towers, too slow for runs of a few hundred steps with one block a stage.
    """

    image_size: tuple[int, int] = (224, 224)
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    heads: int = 32
    stem_pool: bool = True
    residual_gain: float = 0.0
    kind: Literal["resnet"] = "resnet"

    def __post_init__(self) -> None:
        if len(self.layers) != RESNET_STAGES:
            expected = "four block counts, for example (3, 4, 6, 3)"
            raise _wrong("a ResNet tower needs four stages", "vision.layers", self.layers, expected)
        counts = {f"layers[{i}]": count for i, count in enumerate(self.layers)}
        _require_positive("vision", **counts, width=self.width // 2)
        _require_heads("vision", self.output_width, self.heads)
        _require_grid(self.image_size, self.stride)

    @property
    def output_width(self) -> int:
        """Channels of the last stage (32 times the stem's width)."""
        return self.width * RESNET_EXPANSION << (RESNET_STAGES - 1)

    @property
    def stride(self) -> int:
        """Pixels per cell of the last feature map: stem convolution 2, its pool 2 or 1, three stages of 2."""
        return (4 if self.stem_pool else 2) << (RESNET_STAGES - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last feature map."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride


@dataclass(frozen=True, slots=True)
class SiglipVisionConfig(_Patches):
    """Shape of SigLIP's vision Transformer: no class token, an attention pool with a learned query on top.

    An image's size need not be a multiple of the patch: what is left at the right and bottom is not looked
    at (SO400M/14 at 384 pixels sees 378 of them). The width is the width of the shared space.
    """

    kind: Literal["siglip"] = "siglip"

    def __post_init__(self) -> None:
        _require_positive("vision", patch_size=self.patch_size, layers=self.layers)
        _require_heads("vision", self.width, self.heads, self.mlp_ratio)
        if len(self.image_size) != 2 or min(self.image_size) < self.patch_size:
            expected = f"(height, width), both {self.patch_size} or more"
            raise _wrong("the image is smaller than a patch", "vision.image_size", self.image_size, expected)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Shape of the causal text Transformer and the two ids that bracket every text.

    Configurations that are older than ``kind`` do not have it, and mean this tower.
    """

    context_length: int = 77
    vocab_size: int = 49_408
    width: int = 512
    layers: int = 12
    heads: int = 8
    start_id: int = 49_406
    end_id: int = 49_407
    mlp_ratio: float = 4.0
    kind: Literal["clip"] = field(default="clip", metadata={"implied": True})

    def __post_init__(self) -> None:
        _require_text(self, start_id=self.start_id, end_id=self.end_id)


@dataclass(frozen=True, slots=True)
class SiglipTextConfig:
    """Shape of SigLIP's text Transformer: every token sees every other, the last of the context is read.

    Texts are filled up with ``pad_id`` to the whole context, and the padding takes part: changing
    ``context_length`` or ``pad_id`` changes the embeddings. ``head`` is a linear layer with bias into the
    shared space; without one (SO400M/16 i18n) the width is that of the space.
    """

    context_length: int = 64
    vocab_size: int = 32_000
    width: int = 768
    layers: int = 12
    heads: int = 12
    start_id: int = NO_TOKEN
    end_id: int = 1
    pad_id: int = 1
    mlp_ratio: float = 4.0
    head: bool = True
    kind: Literal["siglip"] = "siglip"

    def __post_init__(self) -> None:
        _require_text(self, start_id=self.start_id, end_id=self.end_id, pad_id=self.pad_id)


VisionConfig = VitConfig | ResNetConfig | SiglipVisionConfig
AnyTextConfig = TextConfig | SiglipTextConfig


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Two towers, the width of the space they share, and the temperature's start and ceiling.

    ``logit_scale_init`` is the stored logarithm (ln 1/0.07); ``logit_scale_max`` bounds its exponential in
    training alone: a model that was trained to a larger scale keeps it, as in open_clip and transformers.
    ``text_activation`` is the text tower's where it is not ``activation``. ``logit_bias_init`` is where the
    learned bias of the sigmoid loss starts; None: the model has no bias.
    """

    embed_dim: int
    vision: VisionConfig
    text: AnyTextConfig
    activation: Activation = "quick_gelu"
    layer_norm_eps: float = 1e-5
    logit_scale_init: float = math.log(1 / 0.07)
    logit_scale_max: float = 100.0
    text_activation: Activation | None = None
    logit_bias_init: float | None = None

    def __post_init__(self) -> None:
        _require_positive("model", embed_dim=self.embed_dim, logit_scale_max=self.logit_scale_max)
        for name in ("activation", "text_activation"):
            if getattr(self, name) not in (*ACTIVATIONS, None):
                raise unknown_name("activation", str(getattr(self, name)), ACTIVATIONS, where=name)
        if isinstance(self.vision, SiglipVisionConfig):
            _require_same_width("vision", self.vision.width, self.embed_dim)
        if isinstance(self.text, SiglipTextConfig) and not self.text.head:
            _require_same_width("text", self.text.width, self.embed_dim)

    def with_tokenizer(
        self,
        *,
        vocab_size: int,
        start_id: int,
        end_id: int,
        context_length: int | None = None,
        pad_id: int | None = None,
    ) -> "ClipConfig":
        """Return this configuration for another vocabulary (and, if given, another context length).

        ``pad_id`` matters to towers that read their padding, and is ignored by the others.
        """
        text = replace(self.text, vocab_size=vocab_size, start_id=start_id, end_id=end_id)
        if context_length is not None:
            text = replace(text, context_length=context_length)
        if isinstance(text, SiglipTextConfig) and pad_id is not None:
            text = replace(text, pad_id=pad_id)
        return replace(self, text=text)


def check_sizes(config: ClipConfig) -> None:
    """Refuse numbers that no model has, before modules are made for them: a file must not cost memory."""
    numbers = [("embed_dim", config.embed_dim)]
    for tower, part in (("vision", config.vision), ("text", config.text)):
        for name, value in to_mapping(part).items():
            numbers += [(f"{tower}.{name}", one) for one in (value if isinstance(value, list) else [value])]
    for name, number in numbers:
        limit = MAX_LAYERS if name.endswith(".layers") else MAX_SIZE
        if isinstance(number, int | float) and not -1 <= number <= limit:
            raise _no_model(name, number, f"at most {limit:,}")
    if not 0 <= config.layer_norm_eps < 1:
        raise _no_model("layer_norm_eps", config.layer_norm_eps, "a small positive number")
    for name in ("logit_scale_init", "logit_bias_init"):
        value = getattr(config, name)
        if value is not None and not abs(value) <= MAX_LOGIT:
            raise _no_model(name, value, f"at most {MAX_LOGIT:g}")


def mlp_ratio(width: int, hidden: int) -> float:
    """Return the ratio r for which ``int(width * r)`` is ``hidden``: the exact inverse of what towers do.

    >>> int(1152 * mlp_ratio(1152, 4304)), mlp_ratio(768, 3072)
    (4304, 4.0)
    """
    ratio = hidden / max(width, 1)  # a width of 0 is refused where the tower is described
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _wrong(what: str, where: str, actual: object, expected: str, fix: str = "") -> SettingsError:
    fix = fix or f"change {where.rpartition('.')[2]}"
    return SettingsError(what, where=where, found=str(actual), expected=expected, fix=fix)


def _no_model(where: str, number: float, expected: str) -> SettingsError:
    shown = f"{number:g}" if isinstance(number, float) else str(number)[:30]
    fix = "restore the configuration that was published with these weights"
    return _wrong("no model has such a setting", where, shown, expected, fix)


def _require_positive(part: str, **values: float) -> None:
    for name, value in values.items():
        if not value >= 1:
            raise _wrong(f"{name} is too small", f"{part}.{name}", value, "1 or more", f"raise {name}")


def _require_text(text: AnyTextConfig, **ids: int) -> None:
    sizes = {name: getattr(text, name) for name in ("layers", "context_length", "vocab_size")}
    _require_positive("text", **sizes)
    _require_heads("text", text.width, text.heads, text.mlp_ratio)
    for name, token_id in ids.items():
        if token_id != NO_TOKEN and not 0 <= token_id < text.vocab_size:
            expected, fix = f"0 to {text.vocab_size - 1}", "take vocab_size and all ids from one tokenizer"
            raise _wrong(f"{name} lies outside the vocabulary", f"text.{name}", token_id, expected, fix)


def _require_same_width(part: str, width: int, embed_dim: int) -> None:
    if width != embed_dim:
        what = "a tower without a projection is as wide as the shared space"
        actual, fix = f"width {width}, embed_dim {embed_dim}", "set embed_dim to the tower's width"
        raise _wrong(what, f"{part}.width", actual, "the same number twice", fix)


def _require_heads(part: str, width: int, heads: int, mlp_ratio: float = 1.0) -> None:
    if heads < 1 or width < 1 or width % heads:
        what, expected = "the width must divide evenly among the heads", "width = heads x whole number"
        actual = f"width {width}, heads {heads}"
        raise _wrong(what, f"{part}.heads", actual, f"{expected} (64 in the paper)", "change width or heads")
    _require_positive(part, mlp_width=width * mlp_ratio)


def _require_grid(image_size: tuple[int, int], stride: int) -> None:
    if len(image_size) != 2 or any(side < stride or side % stride for side in image_size):
        what, where = "the image size does not fit the tower", "vision.image_size"
        expected, fix = f"(height, width), both multiples of {stride}", "round image_size to such multiples"
        raise UnsupportedError(what, where=where, found=str(image_size), expected=expected, fix=fix)
