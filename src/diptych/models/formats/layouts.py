"""The layouts of weights: which tensors of OpenAI, open_clip and transformers are which of ours.

A new family is a table of layers here and a tower. CLIP in OpenAI's and open_clip's layout, CLIP of
transformers, SigLIP of transformers, SigLIP of open_clip (around a tower of timm).
"""

import re
from collections.abc import Iterable

from diptych.models.formats.mapping import QKV, Layers, Row, blocks, layer, layers, packed
from diptych.models.towers.config import SiglipTextConfig, SiglipVisionConfig

_MLP: Layers = {("mlp.c_fc",): "mlp.fc1", ("mlp.c_proj",): "mlp.fc2"}

_PARTS: Layers = {(f"attn.{part}_proj",): f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")}

_TRANSFORMERS_BLOCK: Layers = {
    ("ln_1",): "layer_norm1",
    **_PARTS,
    ("ln_2",): "layer_norm2",
    **_MLP,
}
_TRANSFORMERS_HEAD: Layers = {("attn.out_proj",): "attention.out_proj", ("ln",): "layernorm", **_MLP}
_TIMM_BLOCK: Layers = {
    ("ln_1",): "norm1",
    QKV: "attn.qkv",
    ("attn.out_proj",): "attn.proj",
    ("ln_2",): "norm2",
    **_MLP,
}
_TIMM_HEAD: Layers = {
    ("attn.q_proj",): "q",
    ("attn.k_proj", "attn.v_proj"): "kv",
    ("attn.out_proj",): "proj",
    ("ln",): "norm",
    **_MLP,
}
_OPEN_CLIP_BLOCK: Layers = {
    ("ln_1",): "ln_1",
    ("attn.out_proj",): "attn.out_proj",
    ("ln_2",): "ln_2",
    ("mlp.c_fc",): "mlp.c_fc",
    ("mlp.c_proj",): "mlp.c_proj",
}


def openai_rows(names: Iterable[str]) -> list[Row]:
    """Return the rows of a CLIP of OpenAI or open_clip.

    Args:
        names: of ours or of theirs; they tell the number of blocks, and the layers of a ModifiedResNet, whose
            names are the same below the tower.
    """
    names = list(names)
    depth = {
        tower: len({found[1] for name in names if (found := re.match(pattern, name))})
        for tower, pattern in (
            ("text", r"(?:text\.blocks|transformer\.resblocks)\.(\d+)\."),
            ("vision", r"(?:vision\.blocks|visual\.transformer\.resblocks)\.(\d+)\."),
        )
    }
    rows = [
        Row("token_embedding.weight", ("text.token_embedding.weight",)),
        Row("positional_embedding", ("text.positional_embedding",)),
        *layer(("text.ln_final",), "ln_final"),
        Row("text_projection", ("text.text_projection",)),
        Row("logit_scale", ("logit_scale",)),
    ]
    if "logit_bias" in names:
        rows.append(Row("logit_bias", ("logit_bias",)))
    for tower, theirs in (("text", "transformer.resblocks"), ("vision", "visual.transformer.resblocks")):
        rows += blocks(f"{tower}.blocks", theirs, _OPEN_CLIP_BLOCK, depth[tower])
        for index in range(depth[tower]):
            rows += packed(f"{tower}.blocks.{index}", f"{theirs}.{index}.attn")
    for name in names:
        prefix, _, rest = name.partition(".")
        if prefix in ("vision", "visual") and not rest.startswith(("blocks.", "transformer.")):
            rows.append(Row(f"visual.{rest}", (f"vision.{rest}",)))
    return rows


def transformers_rows(vision_layers: int, text_layers: int) -> list[Row]:
    """Return the rows of a CLIPModel of transformers."""
    vision, text = "vision_model", "text_model"
    return [
        Row(f"{vision}.embeddings.patch_embedding.weight", ("vision.conv1.weight",)),
        Row(f"{vision}.embeddings.class_embedding", ("vision.class_embedding",)),
        Row(f"{vision}.embeddings.position_embedding.weight", ("vision.positional_embedding",)),
        *layer(("vision.ln_pre",), f"{vision}.pre_layrnorm"),  # their spelling
        *blocks("vision.blocks", f"{vision}.encoder.layers", _TRANSFORMERS_BLOCK, vision_layers),
        *layer(("vision.ln_post",), f"{vision}.post_layernorm"),
        Row("visual_projection.weight", ("vision.proj",), transposed=True),
        Row(f"{text}.embeddings.token_embedding.weight", ("text.token_embedding.weight",)),
        Row(f"{text}.embeddings.position_embedding.weight", ("text.positional_embedding",)),
        *blocks("text.blocks", f"{text}.encoder.layers", _TRANSFORMERS_BLOCK, text_layers),
        *layer(("text.ln_final",), f"{text}.final_layer_norm"),
        Row("text_projection.weight", ("text.text_projection",), transposed=True),
        Row("logit_scale", ("logit_scale",)),
    ]


def transformers_siglip_rows(tower: SiglipVisionConfig, texts: SiglipTextConfig) -> list[Row]:
    """Return the rows of a SiglipModel; it always has a bias and a head."""
    vision, text = "vision_model", "text_model"
    rows = [
        *layer(("vision.conv1",), f"{vision}.embeddings.patch_embedding"),
        Row(f"{vision}.embeddings.position_embedding.weight", ("vision.positional_embedding",)),
        *blocks("vision.blocks", f"{vision}.encoder.layers", _TRANSFORMERS_BLOCK, tower.layers),
        *layer(("vision.ln_post",), f"{vision}.post_layernorm"),
        Row(f"{vision}.head.probe", ("vision.head.probe",), (1, 3)),
        *packed("vision.head", f"{vision}.head.attention"),
        *layers("vision.head", f"{vision}.head", _TRANSFORMERS_HEAD),
        Row(f"{text}.embeddings.token_embedding.weight", ("text.token_embedding.weight",)),
        Row(f"{text}.embeddings.position_embedding.weight", ("text.positional_embedding",)),
        *blocks("text.blocks", f"{text}.encoder.layers", _TRANSFORMERS_BLOCK, texts.layers),
        *layer(("text.ln_final",), f"{text}.final_layer_norm"),
        *layer(("text.head",), f"{text}.head"),
    ]
    return [*rows, *(Row(name, (name,), (0, 1)) for name in ("logit_scale", "logit_bias"))]


def open_clip_siglip_rows(tower: SiglipVisionConfig, texts: SiglipTextConfig, *, bias: bool) -> list[Row]:
    """Return the rows of open_clip's CustomTextCLIP around a tower of timm."""
    trunk, text = "visual.trunk", "text"
    rows = [
        *layer(("vision.conv1",), f"{trunk}.patch_embed.proj"),
        Row(f"{trunk}.pos_embed", ("vision.positional_embedding",), (2, 3)),
        *blocks("vision.blocks", f"{trunk}.blocks", _TIMM_BLOCK, tower.layers),
        *layer(("vision.ln_post",), f"{trunk}.norm"),
        Row(f"{trunk}.attn_pool.latent", ("vision.head.probe",), (1, 3)),
        *layers("vision.head", f"{trunk}.attn_pool", _TIMM_HEAD),
        Row(f"{text}.token_embedding.weight", ("text.token_embedding.weight",)),
        Row(f"{text}.positional_embedding", ("text.positional_embedding",)),
        *blocks("text.blocks", f"{text}.transformer.resblocks", _OPEN_CLIP_BLOCK, texts.layers),
        *layer(("text.ln_final",), f"{text}.ln_final"),
        Row("logit_scale", ("logit_scale",), (0, 0)),
    ]
    for index in range(texts.layers):
        rows += packed(f"text.blocks.{index}", f"{text}.transformer.resblocks.{index}.attn")
    if texts.head:
        rows += layer(("text.head",), f"{text}.text_projection")
    if bias:
        rows.append(Row("logit_bias", ("logit_bias",), (0, 0)))
    return rows
