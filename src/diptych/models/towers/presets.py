"""Named architectures: one row each.

The paper's (tables 19 and 20) run with QuickGELU, as OpenAI's weights do; LAION's and DataComp's of the same
shape with exact GELU: ``-gelu``. The others have the names of open_clip's configurations. The small ones are
ours; their vocabulary and context length are replaced by the tokenizer's (`ClipConfig.with_tokenizer`).

Source: Radford et al. 2021; open_clip 3.3 ``model_configs``; Zhai et al. 2023 for SigLIP's scale and bias.
"""

import math
from dataclasses import replace
from typing import NamedTuple

from diptych.core.errors import SettingsError, unknown_name
from diptych.models.towers.config import (
    NO_CEILING,
    Activation,
    ClipConfig,
    ResNetConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    TextConfig,
    VitConfig,
)

# timm's SigLIP image towers (timm 1.0, vision_transformer.py), to which open_clip's configurations point.
# SigLIP was trained with the tanh approximation of GELU; timm runs most towers with the exact function.
TRUNK_EPS = 1e-6  # every LayerNorm of timm's vision Transformers


class Trunk(NamedTuple):
    """One row: pixels per side, patch, width, blocks, heads, activation, widening of the MLP."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    activation: Activation = "gelu"
    mlp_ratio: float = 4.0


_BASE, _LARGE_TRUNK, _SO400M, _GIANT = (768, 12, 12), (1024, 24, 16), (1152, 27, 16), (1536, 40, 16)

TRUNKS = {
    f"vit_{name}_siglip_{size}": Trunk(size, int(name[-2:]), *shape, activation, ratio)  # type: ignore[arg-type]
    for name, sizes, shape, activation, ratio in (
        ("base_patch32", (256,), _BASE, "gelu_tanh", 4.0),
        ("base_patch16", (224, 256, 384, 512), _BASE, "gelu", 4.0),
        ("large_patch16", (256, 384), _LARGE_TRUNK, "gelu", 4.0),
        ("large_patch16", (512,), _LARGE_TRUNK, "gelu_tanh", 4.0),
        ("so400m_patch14", (224, 378, 384), _SO400M, "gelu", 3.7362),
        ("so400m_patch16", (256, 384, 512), _SO400M, "gelu_tanh", 3.7362),
        ("giantopt_patch16", (256, 384), _GIANT, "gelu_tanh", 4.0),
    )
    for size in sizes
}

# Heads of 8: with few wide heads every head settles on the words that pay first (colors), and the others
# wait (LOG.md, 2026-11-24).
_TEXT_MANY_HEADS = TextConfig(context_length=32, width=256, layers=1, heads=32)

_TEXT_640, _TEXT_768 = TextConfig(width=640, heads=10), TextConfig(width=768, heads=12)
_TEXT_H = TextConfig(width=1024, layers=24, heads=16)


def _small_resnet(image_size: tuple[int, int]) -> ClipConfig:
    vision = ResNetConfig(image_size, (1, 1, 1, 1), width=16, heads=32, stem_pool=False, residual_gain=1.0)
    return ClipConfig(256, vision, _TEXT_MANY_HEADS, "gelu")


def _resnet(
    embed_dim: int, size: int, layers: tuple[int, int, int, int], width: int, text: TextConfig
) -> ClipConfig:
    return ClipConfig(embed_dim, ResNetConfig((size, size), layers, width, width // 2), text)


def _vit_h(size: int) -> ClipConfig:
    return ClipConfig(1024, VitConfig((size, size), 14, 1280, 32, 16), _TEXT_H, "gelu")


def _quick(config: ClipConfig) -> ClipConfig:
    return replace(config, activation="quick_gelu")


_PAPER: dict[str, ClipConfig] = {
    "ViT-B-32": ClipConfig(512, VitConfig((224, 224), 32, 768, 12, 12), TextConfig()),
    "ViT-B-16": ClipConfig(512, VitConfig((224, 224), 16, 768, 12, 12), TextConfig()),
    "ViT-L-14": ClipConfig(768, VitConfig((224, 224), 14, 1024, 24, 16), _TEXT_768),
    "ViT-L-14-336": ClipConfig(768, VitConfig((336, 336), 14, 1024, 24, 16), _TEXT_768),
    "RN50": _resnet(1024, 224, (3, 4, 6, 3), 64, TextConfig()),
    "RN101": _resnet(512, 224, (3, 4, 23, 3), 64, TextConfig()),
    "RN50x4": _resnet(640, 288, (4, 6, 10, 6), 80, _TEXT_640),
    "RN50x16": _resnet(768, 384, (6, 8, 18, 8), 96, _TEXT_768),
    "RN50x64": _resnet(1024, 448, (3, 15, 36, 10), 128, TextConfig(width=1024, heads=16)),
}

_BIG_G = ClipConfig(
    1280,
    VitConfig((224, 224), 14, 1664, 48, 16, mlp_ratio=4.9231),
    TextConfig(width=1280, layers=32, heads=20),
    "gelu",
)

_LARGE: dict[str, ClipConfig] = {
    "ViT-B-32-256": ClipConfig(512, VitConfig((256, 256), 32, 768, 12, 12), TextConfig(), "gelu"),
    "ViT-B-16-plus-240": ClipConfig(640, VitConfig((240, 240), 16, 896, 12, 14), _TEXT_640, "gelu"),
    "ViT-H-14": _vit_h(224),
    "ViT-H-14-quickgelu": _quick(_vit_h(224)),
    "ViT-H-14-378": _vit_h(378),
    "ViT-H-14-378-quickgelu": _quick(_vit_h(378)),
    "ViT-g-14": ClipConfig(1024, VitConfig((224, 224), 14, 1408, 40, 16, mlp_ratio=4.3637), _TEXT_H, "gelu"),
    "ViT-bigG-14": _BIG_G,
    "ViT-bigG-14-quickgelu": _quick(_BIG_G),
}

# The architectures of published weights that lie alone: a tower of such a shape has such heads.
PUBLISHED: dict[str, ClipConfig] = {**_PAPER, **_LARGE}

_SIGLIP_BASE = SiglipTextConfig(width=768, layers=12, heads=12)
_SIGLIP_LARGE = SiglipTextConfig(width=1024, layers=24, heads=16)
_SIGLIP_SO400M = SiglipTextConfig(width=1152, layers=27, heads=16, mlp_ratio=3.7362)


def _siglip(trunk: str, size: int, text: SiglipTextConfig, *, tanh: bool = False) -> ClipConfig:
    row = TRUNKS[f"vit_{trunk}_siglip_{size}"]
    text_activation: Activation = "gelu_tanh" if tanh else "gelu"
    return ClipConfig(
        embed_dim=row.width,
        vision=SiglipVisionConfig(
            (size, size), row.patch_size, row.width, row.layers, row.heads, row.mlp_ratio
        ),
        text=text,
        activation=row.activation,
        text_activation=None if text_activation == row.activation else text_activation,
        layer_norm_eps=TRUNK_EPS,
        logit_scale_init=math.log(10),
        logit_scale_max=NO_CEILING,
        logit_bias_init=-10.0,
    )


def _siglip2(trunk: str, size: int, text: SiglipTextConfig) -> ClipConfig:
    return _siglip(trunk, size, replace(text, vocab_size=256_000, pad_id=0), tanh=True)


_SIGLIP: dict[str, ClipConfig] = {
    "ViT-B-16-SigLIP": _siglip("base_patch16", 224, _SIGLIP_BASE),
    "ViT-B-16-SigLIP-256": _siglip("base_patch16", 256, _SIGLIP_BASE),
    "ViT-B-16-SigLIP-384": _siglip("base_patch16", 384, _SIGLIP_BASE),
    "ViT-B-16-SigLIP-512": _siglip("base_patch16", 512, _SIGLIP_BASE),
    "ViT-B-16-SigLIP-i18n-256": _siglip("base_patch16", 256, replace(_SIGLIP_BASE, vocab_size=250_000)),
    "ViT-L-16-SigLIP-256": _siglip("large_patch16", 256, _SIGLIP_LARGE),
    "ViT-L-16-SigLIP-384": _siglip("large_patch16", 384, _SIGLIP_LARGE),
    "ViT-SO400M-14-SigLIP": _siglip("so400m_patch14", 224, replace(_SIGLIP_SO400M, context_length=16)),
    "ViT-SO400M-14-SigLIP-378": _siglip("so400m_patch14", 378, _SIGLIP_SO400M),
    "ViT-SO400M-14-SigLIP-384": _siglip("so400m_patch14", 384, _SIGLIP_SO400M),
    "ViT-SO400M-16-SigLIP-i18n-256": _siglip(
        "so400m_patch16", 256, replace(_SIGLIP_SO400M, vocab_size=250_000, head=False)
    ),
    "ViT-B-32-SigLIP2-256": _siglip2("base_patch32", 256, _SIGLIP_BASE),
    "ViT-B-16-SigLIP2": _siglip2("base_patch16", 224, _SIGLIP_BASE),
    "ViT-B-16-SigLIP2-256": _siglip2("base_patch16", 256, _SIGLIP_BASE),
    "ViT-B-16-SigLIP2-384": _siglip2("base_patch16", 384, _SIGLIP_BASE),
    "ViT-B-16-SigLIP2-512": _siglip2("base_patch16", 512, _SIGLIP_BASE),
    "ViT-L-16-SigLIP2-256": _siglip2("large_patch16", 256, _SIGLIP_LARGE),
    "ViT-L-16-SigLIP2-384": _siglip2("large_patch16", 384, _SIGLIP_LARGE),
    "ViT-L-16-SigLIP2-512": _siglip2("large_patch16", 512, _SIGLIP_LARGE),
    "ViT-SO400M-14-SigLIP2": _siglip2("so400m_patch14", 224, _SIGLIP_SO400M),
    "ViT-SO400M-14-SigLIP2-378": _siglip2("so400m_patch14", 378, _SIGLIP_SO400M),
    "ViT-SO400M-16-SigLIP2-256": _siglip2("so400m_patch16", 256, _SIGLIP_SO400M),
    "ViT-SO400M-16-SigLIP2-384": _siglip2("so400m_patch16", 384, _SIGLIP_SO400M),
    "ViT-SO400M-16-SigLIP2-512": _siglip2("so400m_patch16", 512, _SIGLIP_SO400M),
    "ViT-gopt-16-SigLIP2-256": _siglip2("giantopt_patch16", 256, _SIGLIP_SO400M),
    "ViT-gopt-16-SigLIP2-384": _siglip2("giantopt_patch16", 384, _SIGLIP_SO400M),
}

PRESETS: dict[str, ClipConfig] = {
    **_PAPER,
    **{
        f"{name}-gelu": replace(_PAPER[name], activation="gelu")
        for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
    },
    **_LARGE,
    **_SIGLIP,
    "vit-tiny-8-64": ClipConfig(192, VitConfig((64, 64), 8, 192, 6, 3), TextConfig(32, 49_408, 192, 4, 3)),
    "vit-mini-16-64": ClipConfig(128, VitConfig((64, 64), 16, 128, 4, 2), TextConfig(32, 49_408, 128, 3, 2)),
    "resnet-micro-48": _small_resnet((48, 48)),
    "resnet-mini-64": _small_resnet((64, 64)),
    "resnet-mini-80x64": _small_resnet((80, 64)),
}


def preset(name: str) -> ClipConfig:
    """Return the configuration with this name.

    >>> preset("ViT-B-32").embed_dim
    512
    """
    if name not in PRESETS:
        raise unknown_name("model preset", str(name), PRESETS)
    return PRESETS[name]


def trunk_name(vision: SiglipVisionConfig, activation: Activation) -> str:
    """Return the name under which timm builds this tower.

    >>> trunk_name(SiglipVisionConfig(), "gelu")
    'vit_base_patch16_siglip_224'
    """
    hidden = int(vision.width * vision.mlp_ratio)
    shape = vision.image_size, vision.patch_size, vision.width, vision.layers, vision.heads, hidden
    alike = {
        trunk.activation: name
        for name, trunk in TRUNKS.items()
        if shape == ((trunk.image_size,) * 2, *trunk[1:5], int(trunk.width * trunk.mlp_ratio))
    }
    if activation in alike:
        return alike[activation]
    if not alike:
        what, expected = "timm, and so open_clip, builds no such image tower", f"one of {', '.join(TRUNKS)}"
        fix = "convert to transformers or diptych"
        raise SettingsError(what, where="vision", found=str(vision), expected=expected, fix=fix)
    known, name = next(iter(alike.items()))
    what = "timm, and so open_clip, builds this image tower with another activation"
    fix = "convert to transformers or diptych; or replace the activation: the embeddings change a little"
    expected = f"{known}, as in {name}"
    raise SettingsError(what, where="activation", found=activation, expected=expected, fix=fix)
