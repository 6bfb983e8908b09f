"""Which tensors of OpenAI, open_clip and transformers are which of ours: tables of rows.

A row says which of our tensors make up which of theirs. Reading and writing go through the same rows, so one
is the inverse of the other. A new family is a table here and a tower.

OpenAI and open_clip call the image tower ``visual`` and leave the text tower without a prefix, nest blocks in
``transformer.resblocks``, and pack query, key and value into one ``in_proj``; open_clip's SigLIP has timm's
image tower under ``visual.trunk``. transformers names every part, and shares nothing with the others.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diptych.core.errors import IntegrityError
from diptych.models.towers.config import MAX_LAYERS, ClipConfig, SiglipTextConfig, SiglipVisionConfig

State = Mapping[str, Tensor]
SHOWN = 6  # tensors in a message
SCALARS = ("logit_scale", "logit_bias")  # 0-D or of one element, as the library and its version like it
QKV = "attn.q_proj attn.k_proj attn.v_proj"

_NOT_WEIGHTS = re.compile(r"input_resolution|context_length|vocab_size|(.*\.)?attn_mask|(.*\.)?position_ids")


@dataclass(frozen=True, slots=True)
class Row:
    """One of their tensors.

    Attributes:
        theirs: its name.
        ours: our name, or several with spaces between: theirs holds them behind one another in its first
            dimension.
        dimensions: None, or how many ours and theirs have: theirs has more, of size 1, in front.
        transposed: theirs is the transpose of ours, a matrix.
    """

    theirs: str
    ours: str
    dimensions: tuple[int, int] | None = None
    transposed: bool = False


# Layers of ours → the name of theirs; several of ours, with spaces between, are packed into one.
Layers = Mapping[str, str]

_MLP = {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
_PARTS = {f"attn.{part}_proj": f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")}
_TRANSFORMERS_BLOCK = {"ln_1": "layer_norm1", **_PARTS, "ln_2": "layer_norm2", **_MLP}
_TRANSFORMERS_HEAD = {"attn.out_proj": "attention.out_proj", "ln": "layernorm", **_MLP}
_TIMM_BLOCK = {"ln_1": "norm1", QKV: "attn.qkv", "attn.out_proj": "attn.proj", "ln_2": "norm2", **_MLP}
_TIMM_HEAD = {
    "attn.q_proj": "q", "attn.k_proj attn.v_proj": "kv", "attn.out_proj": "proj", "ln": "norm", **_MLP,
}  # fmt: skip
_OPENAI_BLOCK = {name: name for name in ("ln_1", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")}


def openai_rows(names: Iterable[str]) -> list[Row]:
    """Return the rows of a CLIP of OpenAI or open_clip.

    The names of our tensors tell the number of blocks, and the layers of a ModifiedResNet.
    """
    names = list(names)
    rows = [
        Row("token_embedding.weight", "text.token_embedding.weight"),
        Row("positional_embedding", "text.positional_embedding"),
        *_layer("text.ln_final", "ln_final"),
        Row("text_projection", "text.text_projection"),
        *(Row(name, name, (0, 0)) for name in SCALARS if name in names),
    ]
    for tower, theirs in (("text", "transformer.resblocks"), ("vision", "visual.transformer.resblocks")):
        pattern = re.compile(rf"{tower}\.blocks\.(\d+)\.")
        depth = len({match[1] for name in names if (match := pattern.match(name))})
        rows += _openai_blocks(f"{tower}.blocks", theirs, depth)
    for name in names:
        tower, _, rest = name.partition(".")
        if tower == "vision" and not rest.startswith("blocks."):
            rows.append(Row(f"visual.{rest}", name))
    return rows


def open_clip_rows(config: ClipConfig, names: Iterable[str]) -> list[Row]:
    """Return the rows of open_clip: OpenAI's, and those of its CustomTextCLIP around a tower of timm."""
    vision, text, trunk = config.vision, config.text, "visual.trunk"
    if not isinstance(vision, SiglipVisionConfig) or not isinstance(text, SiglipTextConfig):
        return openai_rows(names)
    rows = [
        *_layer("vision.conv1", f"{trunk}.patch_embed.proj"),
        Row(f"{trunk}.pos_embed", "vision.positional_embedding", (2, 3)),
        *_blocks("vision.blocks", f"{trunk}.blocks", _TIMM_BLOCK, vision.layers),
        *_layer("vision.ln_post", f"{trunk}.norm"),
        Row(f"{trunk}.attn_pool.latent", "vision.head.probe", (1, 3)),
        *_layers("vision.head", f"{trunk}.attn_pool", _TIMM_HEAD),
        Row("text.token_embedding.weight", "text.token_embedding.weight"),
        Row("text.positional_embedding", "text.positional_embedding"),
        *_openai_blocks("text.blocks", "text.transformer.resblocks", text.layers),
        *_layer("text.ln_final", "text.ln_final"),
        Row("logit_scale", "logit_scale", (0, 0)),
    ]
    rows += _layer("text.head", "text.text_projection") if text.head else ()
    rows += [Row("logit_bias", "logit_bias", (0, 0))] if config.logit_bias_init is not None else []
    return rows


def transformers_rows(config: ClipConfig, _names: Iterable[str]) -> list[Row]:
    """Return the rows of a CLIPModel or SiglipModel of transformers; the latter always has bias and heads."""
    vision, text = "vision_model", "text_model"
    layers = config.vision.layers
    assert isinstance(layers, int)
    rows = [
        Row(f"{vision}.embeddings.patch_embedding.weight", "vision.conv1.weight"),
        Row(f"{vision}.embeddings.position_embedding.weight", "vision.positional_embedding"),
        *_blocks("vision.blocks", f"{vision}.encoder.layers", _TRANSFORMERS_BLOCK, layers),
        *_layer("vision.ln_post", f"{vision}.post_layernorm"),
        Row(f"{text}.embeddings.token_embedding.weight", "text.token_embedding.weight"),
        Row(f"{text}.embeddings.position_embedding.weight", "text.positional_embedding"),
        *_blocks("text.blocks", f"{text}.encoder.layers", _TRANSFORMERS_BLOCK, config.text.layers),
        *_layer("text.ln_final", f"{text}.final_layer_norm"),
    ]
    if isinstance(config.vision, SiglipVisionConfig):
        return [
            *rows,
            Row(f"{vision}.embeddings.patch_embedding.bias", "vision.conv1.bias"),
            Row(f"{vision}.head.probe", "vision.head.probe", (1, 3)),
            *_packed("vision.head", f"{vision}.head.attention"),
            *_layers("vision.head", f"{vision}.head", _TRANSFORMERS_HEAD),
            *_layer("text.head", f"{text}.head"),
            *(Row(name, name, (0, 1)) for name in SCALARS),
        ]
    return [
        *rows,
        Row(f"{vision}.embeddings.class_embedding", "vision.class_embedding"),
        *_layer("vision.ln_pre", f"{vision}.pre_layrnorm"),  # their spelling
        Row("visual_projection.weight", "vision.proj", transposed=True),
        Row("text_projection.weight", "text.text_projection", transposed=True),
        Row("logit_scale", "logit_scale", (0, 0)),
    ]


# The rows of a library, by our configuration and the names of our tensors.
LAYOUTS: dict[str, Callable[[ClipConfig, Iterable[str]], list[Row]]] = {
    "openai": lambda _, names: openai_rows(names),
    "open_clip": open_clip_rows,
    "transformers": transformers_rows,
}


def weights_only(state: State) -> dict[str, Tensor]:
    """Leave out what is no weight, and the ``text.`` that CustomTextCLIP puts before the names of a CLIP."""
    kept = {name: tensor for name, tensor in state.items() if not _NOT_WEIGHTS.fullmatch(name)}
    if "text.token_embedding.weight" in kept and not any(name.startswith("visual.trunk.") for name in kept):
        kept = {name.removeprefix("text."): tensor for name, tensor in kept.items()}
    return kept


def read_rows(rows: Iterable[Row], state: State) -> dict[str, Tensor]:
    """Return our tensors by name, floats in float32; those of theirs that are unchanged are shared.

    Theirs have the shapes that `write_rows` makes, but for scalars of one element.
    """
    ours: dict[str, Tensor] = {}
    for row in rows:
        value = state[row.theirs].detach()
        value = value.float() if value.is_floating_point() else value
        if row.transposed:
            value = value.t().contiguous()
        if row.dimensions is not None:
            value = _with_dimensions(value, row.dimensions[0])
        names = row.ours.split()
        parts = [value] if len(names) == 1 else [part.clone() for part in value.chunk(len(names))]
        ours |= zip(names, parts, strict=True)
    return ours


def write_rows(rows: Iterable[Row], state: State) -> dict[str, Tensor]:
    """Return their tensors by name, on the device and in the dtype of ours; the inverse of `read_rows`."""
    theirs: dict[str, Tensor] = {}
    for row in rows:
        parts = [state[name].detach() for name in row.ours.split()]
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        if row.dimensions is not None:
            value = _with_dimensions(value, row.dimensions[1])
        theirs[row.theirs] = (value.t() if row.transposed else value).contiguous()
    return theirs


def require_fit(
    actual: State,
    expected: State,
    form: Callable[[str, Tensor], str],
    *,
    config: ClipConfig,
    where: Path,
    fix: str,
) -> None:
    """Refuse a file whose tensors are not the expected ones: each one once, and alike in `form`."""
    forms = [{name: form(name, tensor) for name, tensor in state.items()} for state in (actual, expected)]
    wrong = []
    for name in sorted(actual.keys() | expected.keys()):
        one, other = (each.get(name) for each in forms)
        if other is None:
            wrong.append(f"an unknown {name} {one}")
        elif one != other:
            wrong.append(f"no {name} {other}" if one is None else f"{name} {one} instead of {other}")
    if wrong:
        found = "; ".join(wrong[:SHOWN]) + f" … ({len(wrong)} in all)" * (len(wrong) > SHOWN)
        stated = f"every tensor of the towers once: {config.vision}, {config.text}"
        what = "the weights do not fit the architecture"
        raise IntegrityError(what, where=where, found=found, expected=stated, fix=fix)


def _with_dimensions(value: Tensor, dimensions: int) -> Tensor:
    shape = list(value.shape)
    while len(shape) > dimensions and shape[0] == 1:
        del shape[0]
    return value.reshape([1] * (dimensions - len(shape)) + shape)


def _layer(ours: str, theirs: str) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield Row(f"{theirs}.{kind}", " ".join(f"{name}.{kind}" for name in ours.split()))


def _packed(ours: str, theirs: str) -> Iterator[Row]:
    """Yield the rows of torch's nn.MultiheadAttention, which joins kind and name with an underscore."""
    for kind in ("weight", "bias"):
        yield Row(f"{theirs}.in_proj_{kind}", " ".join(f"{ours}.{part}.{kind}" for part in QKV.split()))


def _layers(ours: str, theirs: str, table: Layers) -> Iterator[Row]:
    for names, their_name in table.items():
        yield from _layer(" ".join(f"{ours}.{name}" for name in names.split()), f"{theirs}.{their_name}")


def _blocks(ours: str, theirs: str, table: Layers, count: int) -> Iterator[Row]:
    # No more than a model may have: a file that claims 10^100 blocks is refused for its size (`check_sizes`).
    for index in range(min(count, MAX_LAYERS)):
        yield from _layers(f"{ours}.{index}", f"{theirs}.{index}", table)


def _openai_blocks(ours: str, theirs: str, count: int) -> Iterator[Row]:
    yield from _blocks(ours, theirs, _OPENAI_BLOCK, count)
    for index in range(min(count, MAX_LAYERS)):
        yield from _packed(f"{ours}.{index}", f"{theirs}.{index}.attn")
