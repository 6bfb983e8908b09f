"""Named architectures: one row each.

The first five are the paper's (Radford et al. 2021, tables 19 and 20; width / 64 heads everywhere, 32 heads
in RN50's attention pool). The small ones are ours, sized to learn on two processor cores in minutes; their
vocabulary and context length are replaced by the tokenizer's at training time (`ClipConfig.with_tokenizer`).
"""

from diptych.core.errors import unknown_name
from diptych.models.config import ClipConfig, ResNetConfig, TextConfig, VitConfig

# Heads of 8: with few wide heads every head settles on the words that pay first (colours), and the others
# wait (LOG.md, 2026-11-24).
_TEXT_MANY_HEADS = TextConfig(context_length=32, width=256, layers=1, heads=32)


def _small_resnet(image_size: tuple[int, int]) -> ClipConfig:
    """One block a stage, no pool in the stem, residual gains of 1: short runs cannot grow them from 0."""
    vision = ResNetConfig(image_size, (1, 1, 1, 1), width=16, heads=32, stem_pool=False, residual_gain=1.0)
    return ClipConfig(256, vision, _TEXT_MANY_HEADS, "gelu")


PRESETS: dict[str, ClipConfig] = {
    "ViT-B-32": ClipConfig(512, VitConfig((224, 224), 32, 768, 12, 12), TextConfig()),
    "ViT-B-16": ClipConfig(512, VitConfig((224, 224), 16, 768, 12, 12), TextConfig()),
    "ViT-L-14": ClipConfig(768, VitConfig((224, 224), 14, 1024, 24, 16), TextConfig(width=768, heads=12)),
    "ViT-L-14-336": ClipConfig(768, VitConfig((336, 336), 14, 1024, 24, 16), TextConfig(width=768, heads=12)),
    "RN50": ClipConfig(1024, ResNetConfig((224, 224), (3, 4, 6, 3), 64, 32), TextConfig()),
    "vit-tiny-8-64": ClipConfig(192, VitConfig((64, 64), 8, 192, 6, 3), TextConfig(32, 49_408, 192, 4, 3)),
    "vit-mini-16-64": ClipConfig(128, VitConfig((64, 64), 16, 128, 4, 2), TextConfig(32, 49_408, 128, 3, 2)),
    "resnet-micro-48": _small_resnet((48, 48)),
    "resnet-mini-64": _small_resnet((64, 64)),
    "resnet-mini-80x64": _small_resnet((80, 64)),
}


def preset(name: str) -> ClipConfig:
    """Return the configuration with this name.

    Raises:
        UnknownNameError: no preset has the name; the message holds the nearest one.

    >>> preset("ViT-B-32").embed_dim
    512
    """
    if name not in PRESETS:
        raise unknown_name("model preset", name, PRESETS)
    return PRESETS[name]
