"""timm's SigLIP image towers by name: what open_clip's configurations point to and do not say.

Source: timm 1.0 ``models/vision_transformer.py``. SigLIP was trained with the tanh approximation of GELU
(Flax's default); timm runs most towers with the exact function: who loads weights by its names gets that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from diptych.core.errors import SettingsError
from diptych.models.towers.config import Activation, SiglipVisionConfig

TRUNK_EPS = 1e-6  # every LayerNorm of timm's vision Transformers


@dataclass(frozen=True, slots=True)
class Trunk:
    """One row: pixels per side, patch, width, blocks, heads, activation, widening of the MLP."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    activation: Activation = "gelu"
    mlp_ratio: float = 4.0


_SO400M = (1152, 27, 16)  # width, layers, heads

TRUNKS: dict[str, Trunk] = {
    "vit_base_patch32_siglip_256": Trunk(256, 32, 768, 12, 12, "gelu_tanh"),
    **{f"vit_base_patch16_siglip_{size}": Trunk(size, 16, 768, 12, 12) for size in (224, 256, 384, 512)},
    **{f"vit_large_patch16_siglip_{size}": Trunk(size, 16, 1024, 24, 16) for size in (256, 384)},
    "vit_large_patch16_siglip_512": Trunk(512, 16, 1024, 24, 16, "gelu_tanh"),
    **{
        f"vit_so400m_patch14_siglip_{size}": Trunk(size, 14, *_SO400M, "gelu", 3.7362)
        for size in (224, 378, 384)
    },
    **{
        f"vit_so400m_patch16_siglip_{size}": Trunk(size, 16, *_SO400M, "gelu_tanh", 3.7362)
        for size in (256, 384, 512)
    },
    **{
        f"vit_giantopt_patch16_siglip_{size}": Trunk(size, 16, 1536, 40, 16, "gelu_tanh")
        for size in (256, 384)
    },
}


def trunk_name(vision: SiglipVisionConfig, activation: Activation, trunks: Mapping[str, Trunk]) -> str:
    """Return the name under which timm builds this tower.

    >>> trunk_name(SiglipVisionConfig(), "gelu", TRUNKS)
    'vit_base_patch16_siglip_224'
    """
    alike = {name: trunk for name, trunk in trunks.items() if _shape(trunk) == _shape(vision)}
    for name, trunk in alike.items():
        if trunk.activation == activation:
            return name
    if not alike:
        raise SettingsError(
            "timm, and so open_clip, builds no such image tower",
            where="vision",
            found=str(vision),
            expected=f"one of {', '.join(trunks)}",
            fix="convert to transformers or diptych",
        )
    name, trunk = next(iter(alike.items()))
    raise SettingsError(
        "timm, and so open_clip, builds this image tower with another activation",
        where="activation",
        found=activation,
        expected=f"{trunk.activation}, as in {name}",
        fix="convert to transformers or diptych; or replace the activation: the embeddings change a little",
    )


def _shape(tower: Trunk | SiglipVisionConfig) -> tuple[object, ...]:
    size, hidden = tower.image_size, int(tower.width * tower.mlp_ratio)
    sides = size if isinstance(size, tuple) else (size, size)
    return sides, tower.patch_size, tower.width, tower.layers, tower.heads, hidden
