"""What transformers' and open_clip's configurations of a SigLIP may say, with their defaults.

Source: transformers 5 ``models/siglip/configuration_siglip.py``; open_clip 3.3 ``model.py``.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class TransformersText:
    """transformers' SiglipTextConfig: what a config.json leaves out has these values."""

    vocab_size: int = 32_000
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    projection_size: int | None = None


@dataclass(frozen=True, slots=True)
class TransformersVision:
    """transformers' SiglipVisionConfig, likewise."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: Literal[3] = 3
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    vision_use_head: Literal[True] = True


@dataclass(frozen=True, slots=True)
class OpenClipVision:
    """open_clip's vision_cfg of a SigLIP; everything that has no place here would be another tower."""

    timm_model_name: str
    timm_pool: Literal["map"]
    timm_proj: Literal["none"]
    image_size: int | tuple[int, int] = 224
    timm_model_pretrained: bool = False
    timm_proj_bias: bool = False
    timm_drop: float = 0.0
    timm_drop_path: float | None = None
    patch_dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class OpenClipText:
    """open_clip's text_cfg of a SigLIP."""

    no_causal_mask: Literal[True]
    pool_type: Literal["last"]
    context_length: int = 77
    vocab_size: int = 49_408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    proj_type: Literal["linear", "none"] = "linear"
    proj_bias: bool = False
    pad_id: int = 0
    eos_id: int = 2
    norm_kwargs: dict[str, float] = field(default_factory=dict)
    act_kwargs: dict[str, str] = field(default_factory=dict)
    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenClip:
    """open_clip's model_cfg of a SigLIP."""

    embed_dim: int
    vision_cfg: OpenClipVision
    text_cfg: OpenClipText
    custom_text: Literal[True]
    quick_gelu: bool = False
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False
