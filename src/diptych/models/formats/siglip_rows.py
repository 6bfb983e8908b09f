"""Which tensors of transformers' and open_clip's SigLIP are which of ours (`layout_rows`)."""

from collections.abc import Iterator, Mapping

from diptych.models.formats.mapping import Row
from diptych.models.towers.config import SiglipTextConfig, SiglipVisionConfig

# A layer of ours → the names of theirs; several of ours are packed into one.
Layers = Mapping[tuple[str, ...], str]

_QKV = ("attn.q_proj", "attn.k_proj", "attn.v_proj")
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
    _QKV: "attn.qkv",
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


def transformers_rows(tower: SiglipVisionConfig, texts: SiglipTextConfig) -> list[Row]:
    """Return the rows of a SiglipModel; it always has a bias and a head."""
    vision, text = "vision_model", "text_model"
    rows = [
        *_layer(("vision.conv1",), f"{vision}.embeddings.patch_embedding"),
        Row(f"{vision}.embeddings.position_embedding.weight", ("vision.positional_embedding",)),
        *_blocks("vision.blocks", f"{vision}.encoder.layers", _TRANSFORMERS_BLOCK, tower.layers),
        *_layer(("vision.ln_post",), f"{vision}.post_layernorm"),
        Row(f"{vision}.head.probe", ("vision.head.probe",), (1, 3)),
        *_packed("vision.head", f"{vision}.head.attention"),
        *_layers("vision.head", f"{vision}.head", _TRANSFORMERS_HEAD),
        Row(f"{text}.embeddings.token_embedding.weight", ("text.token_embedding.weight",)),
        Row(f"{text}.embeddings.position_embedding.weight", ("text.positional_embedding",)),
        *_blocks("text.blocks", f"{text}.encoder.layers", _TRANSFORMERS_BLOCK, texts.layers),
        *_layer(("text.ln_final",), f"{text}.final_layer_norm"),
        *_layer(("text.head",), f"{text}.head"),
    ]
    return [*rows, *(Row(name, (name,), (0, 1)) for name in ("logit_scale", "logit_bias"))]


def open_clip_rows(tower: SiglipVisionConfig, texts: SiglipTextConfig, *, bias: bool) -> list[Row]:
    """Return the rows of open_clip's CustomTextCLIP around a tower of timm."""
    trunk, text = "visual.trunk", "text"
    rows = [
        *_layer(("vision.conv1",), f"{trunk}.patch_embed.proj"),
        Row(f"{trunk}.pos_embed", ("vision.positional_embedding",), (2, 3)),
        *_blocks("vision.blocks", f"{trunk}.blocks", _TIMM_BLOCK, tower.layers),
        *_layer(("vision.ln_post",), f"{trunk}.norm"),
        Row(f"{trunk}.attn_pool.latent", ("vision.head.probe",), (1, 3)),
        *_layers("vision.head", f"{trunk}.attn_pool", _TIMM_HEAD),
        Row(f"{text}.token_embedding.weight", ("text.token_embedding.weight",)),
        Row(f"{text}.positional_embedding", ("text.positional_embedding",)),
        *_blocks("text.blocks", f"{text}.transformer.resblocks", _OPEN_CLIP_BLOCK, texts.layers),
        *_layer(("text.ln_final",), f"{text}.ln_final"),
        Row("logit_scale", ("logit_scale",), (0, 0)),
    ]
    for index in range(texts.layers):
        rows += _packed(f"text.blocks.{index}", f"{text}.transformer.resblocks.{index}.attn")
    if texts.head:
        rows += _layer(("text.head",), f"{text}.text_projection")
    if bias:
        rows.append(Row("logit_bias", ("logit_bias",), (0, 0)))
    return rows


def _layer(ours: tuple[str, ...], theirs: str) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield Row(f"{theirs}.{kind}", tuple(f"{name}.{kind}" for name in ours))


def _packed(ours: str, theirs: str) -> Iterator[Row]:
    """Yield torch's nn.MultiheadAttention, which joins kind and name with an underscore."""
    for kind in ("weight", "bias"):
        yield Row(f"{theirs}.in_proj_{kind}", tuple(f"{ours}.{part}.{kind}" for part in _QKV))


def _layers(ours: str, theirs: str, layers: Layers) -> Iterator[Row]:
    for names, their_name in layers.items():
        yield from _layer(tuple(f"{ours}.{name}" for name in names), f"{theirs}.{their_name}")


def _blocks(ours: str, theirs: str, layers: Layers, count: int) -> Iterator[Row]:
    for index in range(count):
        yield from _layers(f"{ours}.{index}", f"{theirs}.{index}", layers)
