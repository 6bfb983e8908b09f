"""The towers as ONNX graphs: the same steps as `diptych.models.towers`, one writer per kind of tower.

Every writer takes a tower's tensors by our names and returns the name of the (B, E) features. Done once here
instead of at every run: BatchNorm is folded into the convolution before it, the attention's scale into the
queries, QuickGELU's slope into the MLP's weights, the class token into its position. The last block of a
Transformer is computed for the one token that is read.

Source: Radford et al. 2021 (CLIP), section 2.4; the modules in `diptych.models.towers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.export.graph import INT64, Array, Graph
from diptych.models.towers.blocks import GELU_APPROXIMATION, QUICK_GELU_SLOPE
from diptych.models.towers.config import Activation, ResNetConfig, TextConfig, VitConfig

# Added to the scores of keys that may not be seen: finite, so that a row of nothing else is not NaN.
HIDDEN = np.float32(np.finfo(np.float32).min)
BATCH_NORM_EPS = 1e-5  # torch's default, which every published ModifiedResNet has


@dataclass(frozen=True, slots=True)
class ModuleWeights:
    """A graph and the tensors of one module in it, by the names they have below that module."""

    graph: Graph
    state: Mapping[str, Array]
    prefix: str
    activation: Activation
    eps: float  # of every LayerNorm

    def __getitem__(self, name: str) -> Array:
        return self.state[f"{self.prefix}{name}"]

    def below(self, name: str) -> "ModuleWeights":
        """Return the module of this name in this one."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def norm(self, x: str, name: str) -> str:
        """Apply the LayerNorm `name`."""
        return self.graph.layer_norm(x, self[f"{name}.weight"], self[f"{name}.bias"], self.eps)

    def linear(self, x: str, name: str) -> str:
        """Apply the linear layer `name`."""
        weight, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        return self.graph.linear(f"{self.prefix}{name}", x, weight, bias)

    def project(self, x: str, name: str) -> str:
        """Apply the linear layer `name` behind the last token's: never quantized (see `vit`)."""
        product = self.graph.add("MatMul", x, self.graph.weight(self[f"{name}.weight"].T))
        return self.graph.add("Add", product, self.graph.tensor(self[f"{name}.bias"]))


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """How rows (T, D) and sequences (B, L, D) belong together."""

    length: int | None  # where it is constant
    batch_and_length: str = ""  # else a tensor of both
    pack: str = ""  # (T,) int64 place in B * L of every row; none where every place is a row
    unpack: str = ""  # (B * L,) int64 row of every place
    pool_rows: str = ""  # (B,) int64 row of the token that is read
    later: str = ""  # (L, L) scores of keys that come later than the query
    ended: str = ""  # (B, 1, L) scores of keys behind the end

    def sequences(self, graph: Graph, rows: str, *rest: int) -> str:
        """Return (B, L, *rest) for rows (T, prod(rest)); places without a row hold some other row."""
        if self.unpack:
            rows = graph.add("Gather", rows, self.unpack, axis=0)
        if self.length is not None:
            return graph.reshape(rows, -1, self.length, *rest)
        shape = graph.add("Concat", self.batch_and_length, graph.ints(*rest), axis=0)
        return graph.add("Reshape", rows, shape)

    def rows(self, graph: Graph, sequences: str, width: int) -> str:
        """Return (T, D) for (B, L, ...) of D numbers a place."""
        flat = graph.reshape(sequences, -1, width)
        return graph.add("Gather", flat, self.pack, axis=0) if self.pack else flat


def transformer(module: ModuleWeights, rows: str, layout: SequenceLayout, *, layers: int, heads: int) -> str:
    """Return (B, D): the reading tokens after all blocks of `module.blocks`."""
    for number in range(layers - 1):
        rows = block(module.below(f"blocks.{number}"), rows, layout, heads)
    last = module.below(f"blocks.{layers - 1}")
    normed = last.norm(rows, "ln_1")
    queries = module.graph.add("Gather", normed, layout.pool_rows, axis=0)
    mixed = one_query_attention(last.below("attn"), queries, normed, layout, heads)
    mixed = last.below("attn").linear(mixed, "out_proj")
    read = module.graph.add("Add", module.graph.add("Gather", rows, layout.pool_rows, axis=0), mixed)
    return module.graph.add("Add", read, mlp(last.below("mlp"), last.norm(read, "ln_2")))


def block(module: ModuleWeights, rows: str, layout: SequenceLayout, heads: int) -> str:
    """Attention, then the MLP, each behind a LayerNorm and beside a shortcut; (T, D) for (T, D)."""
    graph = module.graph
    rows = graph.add("Add", rows, attention(module.below("attn"), module.norm(rows, "ln_1"), layout, heads))
    return graph.add("Add", rows, mlp(module.below("mlp"), module.norm(rows, "ln_2")))


def attention(module: ModuleWeights, rows: str, layout: SequenceLayout, heads: int) -> str:
    """Let every row (T, D) look at its own sequence; returns (T, D)."""
    graph, width = module.graph, module["q_proj.weight"].shape[0]
    scale = np.float32((width // heads) ** -0.5)
    weight, bias = (
        np.concatenate([module[f"q_proj.{kind}"] * scale, module[f"k_proj.{kind}"], module[f"v_proj.{kind}"]])
        for kind in ("weight", "bias")
    )
    packed = graph.linear(f"{module.prefix}qkv", rows, weight, bias)
    whole = layout.sequences(graph, packed, 3, heads, width // heads)
    q, k, v = (
        graph.add("Squeeze", piece, graph.ints(2))
        for piece in graph.add_many("Split", whole, outputs=3, axis=2, num_outputs=3)
    )
    queries, values = (graph.transpose(x, 0, 2, 1, 3) for x in (q, v))
    scores = graph.add("MatMul", queries, graph.transpose(k, 0, 2, 3, 1))
    if layout.later:
        scores = graph.add("Add", scores, layout.later)
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), values)
    mixed = graph.transpose(mixed, 0, 2, 1, 3)
    return module.linear(layout.rows(graph, mixed, width), "out_proj")


def one_query_attention(
    module: ModuleWeights, queries: str, rows: str, layout: SequenceLayout, heads: int
) -> str:
    """Attend from one query (B, D) per sequence of rows (T, D); returns (B, D) before the output projection.

    A key's bias adds the same to all scores of a query: softmax cancels it, so it is not here.
    """
    graph, width = module.graph, module["q_proj.weight"].shape[0]
    size = width // heads
    scale = np.float32(size**-0.5)
    weight, bias = module["q_proj.weight"] * scale, module["q_proj.bias"] * scale
    q = graph.linear(f"{module.prefix}q_proj", queries, weight, bias)
    by_head = graph.transpose(graph.reshape(q, -1, heads, size), 1, 0, 2)
    looks = graph.add("MatMul", by_head, graph.weight(module["k_proj.weight"].reshape(heads, size, width)))
    tokens = layout.sequences(graph, rows, width)
    scores = graph.add("MatMul", graph.transpose(looks, 1, 0, 2), graph.transpose(tokens, 0, 2, 1))
    if layout.ended:
        scores = graph.add("Add", scores, layout.ended)
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), tokens)
    value_weight = module["v_proj.weight"].reshape(heads, size, width).transpose(0, 2, 1)
    values = graph.add("MatMul", graph.transpose(mixed, 1, 0, 2), graph.weight(value_weight))
    values = graph.reshape(graph.transpose(values, 1, 0, 2), -1, width)
    return graph.add("Add", values, graph.tensor(module["v_proj.bias"]))


def mlp(module: ModuleWeights, rows: str) -> str:
    """Two linear layers with the activation between them."""
    graph = module.graph
    weight, bias, outer = module["c_fc.weight"], module["c_fc.bias"], module["c_proj.weight"]
    if module.activation == "quick_gelu":
        # x sigmoid(1.702 x) is SiLU with two scalings, which go into the weights.
        slope = np.float32(QUICK_GELU_SLOPE)
        hidden = graph.linear(f"{module.prefix}c_fc", rows, weight * slope, bias * slope)
        hidden, outer = graph.add("Mul", hidden, graph.add("Sigmoid", hidden)), outer / slope
    else:
        hidden = graph.linear(f"{module.prefix}c_fc", rows, weight, bias)
        hidden = graph.add("Gelu", hidden, approximate=GELU_APPROXIMATION[module.activation])
    return graph.linear(f"{module.prefix}c_proj", hidden, outer, module["c_proj.bias"])


def vit(module: ModuleWeights, config: VitConfig, pixels: str) -> str:
    """Return (B, E) features of normalized images (B, 3, H, W)."""
    graph, length = module.graph, config.grid[0] * config.grid[1] + 1
    positions = module["positional_embedding"]
    seen = graph.reshape(patches(module, config, pixels, None), -1, length - 1, config.width)
    seen = graph.add("Add", seen, graph.tensor(positions[1:]))
    batch = graph.size(pixels, 0)
    first = graph.tensor((module["class_embedding"] + positions[0]).reshape(1, 1, -1))
    first = graph.add("Expand", first, graph.add("Concat", batch, graph.ints(1, config.width), axis=0))
    rows = graph.reshape(graph.add("Concat", first, seen, axis=1), -1, config.width)
    layout = SequenceLayout(length, pool_rows=first_of_each(graph, batch, length))
    read = transformer(module, module.norm(rows, "ln_pre"), layout, layers=config.layers, heads=config.heads)
    # The last product is never quantized: one row an image costs nothing, and its errors reach the result.
    return graph.add("MatMul", module.norm(read, "ln_post"), graph.weight(module["proj"]))


def patches(module: ModuleWeights, config: Any, pixels: str, bias: Array | None) -> str:
    """Return (B * P, D): the convolution over patches that do not overlap, as one product of matrices.

    Runtimes are slow at convolutions of 16 and more pixels (onnxruntime: 122 ms against 70 for 32 images),
    and a product can be quantized.
    """
    graph, size = module.graph, config.patch_size
    rows, columns = config.grid
    covered = rows * size, columns * size
    if covered != tuple(config.image_size):  # what is left at the right and bottom is not looked at
        pixels = graph.add("Slice", pixels, graph.ints(0, 0), graph.ints(*covered), graph.ints(2, 3))
    cut = graph.reshape(pixels, -1, 3, rows, size, columns, size)
    cut = graph.transpose(cut, 0, 2, 4, 1, 3, 5)
    weight = module["conv1.weight"].reshape(config.width, -1)
    return graph.linear(f"{module.prefix}conv1", graph.reshape(cut, -1, 3 * size * size), weight, bias)


def first_of_each(graph: Graph, batch: str, length: int) -> str:
    """Return (B,) int64: 0, L, 2 L, …"""
    zero, one = graph.scalar(0), graph.scalar(1)
    count = graph.add("Range", zero, graph.add("Squeeze", batch), one)
    return graph.add("Mul", count, graph.scalar(length))


def resnet(module: ModuleWeights, config: ResNetConfig, pixels: str) -> str:
    """Return (B, E) features of normalized images (B, 3, H, W)."""
    graph, x = module.graph, pixels
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = graph.add("Relu", _convolution(module, x, f"conv{number}", f"bn{number}", stride))
    x = _pool(graph, x, 2 if config.stem_pool else 1)
    for stage, count in enumerate(config.layers):
        for number in range(count):
            block = module.below(f"layer{stage + 1}.{number}")
            x = _bottleneck(block, x, 2 if stage > 0 and number == 0 else 1, first=number == 0)
    return _attention_pool(module.below("attnpool"), config, x)


def _bottleneck(module: ModuleWeights, x: str, stride: int, *, first: bool) -> str:
    graph = module.graph
    out = graph.add("Relu", _convolution(module, x, "conv1", "bn1"))
    out = graph.add("Relu", _convolution(module, out, "conv2", "bn2"))
    out = _convolution(module, _pool(graph, out, stride), "conv3", "bn3")
    # Only the first block of a stage changes stride or width, and only there the shortcut has layers.
    shortcut = _convolution(module, _pool(graph, x, stride), "downsample.0", "downsample.1") if first else x
    return graph.add("Relu", graph.add("Add", out, shortcut))


def _pool(graph: Graph, x: str, stride: int) -> str:
    return x if stride == 1 else graph.add("AveragePool", x, kernel_shape=[stride] * 2, strides=[stride] * 2)


def _convolution(module: ModuleWeights, x: str, name: str, norm: str, stride: int = 1) -> str:
    weight = module[f"{name}.weight"].astype(np.float64)
    gain, bias, mean, variance = (
        module[f"{norm}.{kind}"].astype(np.float64)
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    gain = gain / np.sqrt(variance + BATCH_NORM_EPS)
    folded = (weight * gain[:, None, None, None]).astype(np.float32)
    size = weight.shape[-1]
    given = module.graph.weight(folded), module.graph.tensor((bias - mean * gain).astype(np.float32))
    shape = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [size // 2] * 4}
    return module.graph.add("Conv", x, *given, **shape)


def _attention_pool(module: ModuleWeights, config: ResNetConfig, x: str) -> str:
    graph, width = module.graph, config.output_width
    length = config.grid[0] * config.grid[1] + 1
    cells = graph.transpose(graph.reshape(x, 0, width, -1), 0, 2, 1)
    mean = graph.add("ReduceMean", cells, graph.ints(1), keepdims=1)
    tokens = graph.add("Concat", mean, cells, axis=1)
    tokens = graph.add("Add", tokens, graph.tensor(module["positional_embedding"]))
    rows = graph.reshape(tokens, -1, width)
    pool_rows = first_of_each(graph, graph.size(x, 0), length)
    queries = graph.add("Gather", rows, pool_rows, axis=0)
    mixed = one_query_attention(module, queries, rows, SequenceLayout(length), config.heads)
    return module.project(mixed, "c_proj")


def clip_text(module: ModuleWeights, config: TextConfig, tokens: str) -> str:
    """Return (B, E) features of token ids (B, L) int64, read at the first end token.

    The rows behind the end are taken out before the first block, so a batch costs what its texts hold,
    however far it is padded. A text without end token is read at its first token: callers check.
    """
    graph = module.graph
    layout, ids, positions = _reading(graph, tokens, config.end_id)
    embedded = graph.table_rows(module["token_embedding.weight"], ids)
    rows = graph.add("Add", embedded, graph.table_rows(module["positional_embedding"], positions))
    read = transformer(module, rows, layout, layers=config.layers, heads=config.heads)
    return graph.add("MatMul", module.norm(read, "ln_final"), graph.weight(module["text_projection"]))


def _reading(graph: Graph, tokens: str, end_id: int) -> tuple[SequenceLayout, str, str]:
    zero, one = graph.scalar(0), graph.scalar(1)
    ends = graph.add("Cast", graph.add("Equal", tokens, graph.scalar(end_id)), to=6)
    last = graph.add("ArgMax", ends, axis=1, keepdims=1)  # (B, 1): the first of equal ones
    length = graph.size(tokens, 1)
    positions = graph.add("Range", zero, graph.add("Squeeze", length), one)  # (L,)
    inside = graph.add("LessOrEqual", positions, last)  # (B, L)
    flat = graph.reshape(inside, -1)
    pack = graph.reshape(graph.add("NonZero", flat), -1)  # (T,)
    counts = graph.add("CumSum", graph.add("Cast", flat, to=INT64), zero)
    unpack = graph.add("Sub", counts, one)  # (B * L,)
    lengths = graph.reshape(graph.add("Add", last, one), -1)
    pool_rows = graph.add("Sub", graph.add("CumSum", lengths, zero), one)
    hidden, seen = graph.tensor(np.array(HIDDEN)), graph.tensor(np.array(np.float32(0)))
    # (L, L): the key comes after the query
    later = graph.add("Less", graph.add("Unsqueeze", positions, graph.ints(1)), positions)
    ended = graph.add("Where", graph.add("Unsqueeze", inside, graph.ints(1)), seen, hidden)
    layout = SequenceLayout(
        length=None,
        batch_and_length=graph.add("Shape", tokens),
        pack=pack,
        unpack=unpack,
        pool_rows=pool_rows,
        later=graph.add("Where", later, hidden, seen),
        ended=ended,
    )
    ids = graph.add("Gather", graph.reshape(tokens, -1), pack, axis=0)
    return layout, ids, graph.add("Mod", pack, length)


def siglip_vision(module: ModuleWeights, config: Any, pixels: str) -> str:
    """Return (B, E) features of normalized images (B, 3, H, W)."""
    graph, length = module.graph, config.grid[0] * config.grid[1]
    x = graph.reshape(patches(module, config, pixels, module["conv1.bias"]), -1, length, config.width)
    x = graph.add("Add", x, graph.tensor(module["positional_embedding"]))
    rows = graph.reshape(x, -1, config.width)
    layout = SequenceLayout(length)
    for number in range(config.layers):
        rows = block(module.below(f"blocks.{number}"), rows, layout, config.heads)
    return _pooled(module.below("head"), module.norm(rows, "ln_post"), layout, config, graph.size(pixels, 0))


def _pooled(module: ModuleWeights, rows: str, layout: SequenceLayout, config: Any, batch: str) -> str:
    graph = module.graph
    probe = graph.tensor(module["probe"].reshape(1, -1))
    probes = graph.add("Expand", probe, graph.add("Concat", batch, graph.ints(config.width), axis=0))
    mixed = one_query_attention(module.below("attn"), probes, rows, layout, config.heads)
    pooled = module.below("attn").linear(mixed, "out_proj")
    return graph.add("Add", pooled, mlp(module.below("mlp"), module.norm(pooled, "ln")))


def siglip_text(module: ModuleWeights, config: Any, tokens: str) -> str:
    """Return (B, E) features of token ids (B, L) int64, filled up with the pad token to the whole context."""
    graph, context = module.graph, config.context_length
    missing = graph.add("Sub", graph.ints(context), graph.size(tokens, 1))
    amounts = graph.add("Concat", graph.ints(0, 0, 0), missing, axis=0)
    full = graph.add("Pad", tokens, amounts, graph.scalar(config.pad_id))
    rows = graph.table_rows(module["token_embedding.weight"], graph.reshape(full, -1))
    x = graph.reshape(rows, -1, context, config.width)
    x = graph.add("Add", x, graph.tensor(module["positional_embedding"]))
    last = graph.scalar(context - 1)
    pool_rows = graph.add("Add", first_of_each(graph, graph.size(tokens, 0), context), last)
    layout = SequenceLayout(context, pool_rows=pool_rows)
    rows = graph.reshape(x, -1, config.width)
    read = transformer(module, rows, layout, layers=config.layers, heads=config.heads)
    read = module.norm(read, "ln_final")
    return module.project(read, "head") if config.head else read
