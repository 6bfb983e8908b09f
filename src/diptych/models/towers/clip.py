"""CLIP: two towers, one space, one scale.

Source: Radford et al. 2021 (CLIP), figure 3 and section 2.4; initialization as in OpenAI's ``clip/model.py``
(``initialize_parameters``), with PyTorch's defaults where that function is silent; SigLIP's as in big_vision.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from diptych.core import checks
from diptych.models.towers import siglip
from diptych.models.towers.blocks import Attention, Mlp
from diptych.models.towers.config import ClipConfig, SiglipVisionConfig, TextConfig, VitConfig
from diptych.models.towers.init import Initializer
from diptych.models.towers.resnet import ModifiedResNet
from diptych.models.towers.siglip import SiglipText, SiglipVision
from diptych.models.towers.text import PackedBatch, TextTransformer
from diptych.models.towers.vit import VisionTransformer

TOKEN_STD = 0.02
TEXT_POSITION_STD = 0.01


class Clip(nn.Module):
    """The two towers and the learned temperature.

    ``logit_scale`` (0-D) is the stored logarithm. ``logit_bias`` (0-D) is added to scaled cosines where the
    configuration has one, else it is None.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = _vision(config)
        self.text = _text(config)
        self.logit_scale = nn.Parameter(torch.empty(()))
        has_bias = config.logit_bias_init is not None
        self.logit_bias = nn.Parameter(torch.empty(())) if has_bias else None

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return image_features (B, E) of normalized images (B, 3, H, W)."""
        return cast(Tensor, self.vision(pixels))

    def encode_text(self, tokens: Tensor | PackedBatch) -> Tensor:
        """Return text_features (B, E) of token ids (B, L) int64, or of their `PackedBatch`."""
        return cast(Tensor, self.text(tokens))

    def forward(self, pixels: Tensor, tokens: Tensor | PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return image_embeds (B, E) and text_embeds (B, E), float32 of unit length, and the 0-D scale."""
        image_embeds = unit_length(self.encode_image(pixels))
        text_embeds = unit_length(self.encode_text(tokens))
        return image_embeds, text_embeds, self.logit_scale.exp()


def _vision(config: ClipConfig) -> VisionTransformer | ModifiedResNet | SiglipVision:
    vision, activation, eps = config.vision, config.activation, config.layer_norm_eps
    if isinstance(vision, VitConfig):
        return VisionTransformer(vision, embed_dim=config.embed_dim, activation=activation, eps=eps)
    if isinstance(vision, SiglipVisionConfig):
        return SiglipVision(vision, activation=activation, eps=eps)
    return ModifiedResNet(vision, embed_dim=config.embed_dim)


def _text(config: ClipConfig) -> TextTransformer | SiglipText:
    text, eps = config.text, config.layer_norm_eps
    activation = config.text_activation or config.activation
    if isinstance(text, TextConfig):
        return TextTransformer(text, embed_dim=config.embed_dim, activation=activation, eps=eps)
    return SiglipText(text, embed_dim=config.embed_dim, activation=activation, eps=eps)


def unit_length(features: Tensor) -> Tensor:
    """Return features (B, E) scaled to unit length, in float32 or better whatever they come in."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def build(config: ClipConfig, *, seed: int) -> Clip:
    """Return a new model with the paper's initialization; the same seed gives the same weights.

    The global random state is neither read nor changed.
    """
    checks.kind(config, ClipConfig, "config", fix='write preset("ViT-B-32") for a name')
    with torch.device("meta"):
        clip = Clip(config)
    clip = clip.to_empty(device="cpu")
    initialize(clip, torch.Generator().manual_seed(seed))
    return clip


@torch.no_grad()
def initialize(clip: Clip, generator: torch.Generator) -> None:
    """Fill every parameter and buffer of a model on the CPU with its starting value."""
    init = Initializer(generator)
    for module in clip.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            init.default(module)
    if isinstance(clip.text, TextTransformer):
        _initialize_text(clip.text, init)
    else:
        siglip.initialize_text(clip.text, init)
    if isinstance(clip.vision, VisionTransformer):
        _initialize_vit(clip.vision, init)
    elif isinstance(clip.vision, SiglipVision):
        siglip.initialize_vision(clip.vision, init)
    else:
        _initialize_resnet(clip.vision, init)
    clip.logit_scale.fill_(clip.config.logit_scale_init)
    if clip.logit_bias is not None and clip.config.logit_bias_init is not None:
        clip.logit_bias.fill_(clip.config.logit_bias_init)


def _initialize_text(text: TextTransformer, init: Initializer) -> None:
    width, layers = text.config.width, text.config.layers
    residual_std = width**-0.5 * (2 * layers) ** -0.5
    init.normal(text.token_embedding.weight, TOKEN_STD)
    init.normal(text.positional_embedding, TEXT_POSITION_STD)
    init.normal(text.text_projection, width**-0.5)
    for block in text.blocks:
        attention, mlp = cast(Attention, block.attn), cast(Mlp, block.mlp)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
            init.normal(layer.weight, width**-0.5)
            layer.bias.zero_()
        init.normal(attention.out_proj.weight, residual_std)
        attention.out_proj.bias.zero_()
        init.normal(mlp.c_fc.weight, (2 * width) ** -0.5)
        init.normal(mlp.c_proj.weight, residual_std)


def _initialize_vit(vision: VisionTransformer, init: Initializer) -> None:
    width = vision.config.width
    init.normal(vision.class_embedding, width**-0.5)
    init.normal(vision.positional_embedding, width**-0.5)
    init.normal(vision.proj, width**-0.5)
    # nn.MultiheadAttention draws the packed (3 D, D) matrix Xavier-uniform, and zeroes all its biases.
    bound = math.sqrt(6 / (width + 3 * width))
    for block in vision.blocks:
        attention = cast(Attention, block.attn)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
            init.uniform(layer.weight, bound)
            layer.bias.zero_()
        attention.out_proj.bias.zero_()


def _initialize_resnet(vision: ModifiedResNet, init: Initializer) -> None:
    pool = vision.attnpool
    std = pool.c_proj.in_features**-0.5
    init.normal(pool.positional_embedding, std)
    for layer in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
        init.normal(layer.weight, std)
    for name, parameter in vision.named_parameters():
        # At the paper's gain of 0 a residual block starts as its shortcut.
        if name.startswith("layer") and name.endswith("bn3.weight"):
            parameter.fill_(vision.config.residual_gain)


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def meta_init(config: ClipConfig) -> Clip:
    """Return a model on the meta device, to be filled with ``load_state_dict(..., assign=True)``."""
    with torch.device("meta"), _Unfilled():
        return Clip(config)
