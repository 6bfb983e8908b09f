"""SigLIP's towers as ONNX graphs: the same steps as `diptych.models.towers.siglip`.

Texts: every token sees every other, padding too, so nothing is taken out; the last position is read.
"""

from typing import Any

import numpy as np

from diptych.export.graph import Graph
from diptych.export.towers import (
    ModuleWeights,
    SequenceLayout,
    block,
    first_of_each,
    mlp,
    one_query_attention,
    patches,
    transformer,
)


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
    full = _filled(graph, tokens, context, config.pad_id)
    rows = graph.weight_format.rows(graph, module["token_embedding.weight"], graph.reshape(full, -1))
    x = graph.add(
        "Add", graph.reshape(rows, -1, context, config.width), graph.tensor(module["positional_embedding"])
    )
    last = graph.tensor(np.array(context - 1, np.int64))
    pool_rows = graph.add("Add", first_of_each(graph, graph.size(tokens, 0), context), last)
    layout = SequenceLayout(context, pool_rows=pool_rows)
    rows = graph.reshape(x, -1, config.width)
    read = transformer(module, rows, layout, layers=config.layers, heads=config.heads)
    read = module.norm(read, "ln_final")
    if not config.head:
        return read
    projected = graph.add("MatMul", read, graph.weight(module["head.weight"].T))
    return graph.add("Add", projected, graph.tensor(module["head.bias"]))


def _filled(graph: Graph, tokens: str, context: int, pad_id: int) -> str:
    missing = graph.add("Sub", graph.ints(context), graph.size(tokens, 1))
    amounts = graph.add("Concat", graph.ints(0, 0, 0), missing, axis=0)
    return graph.add("Pad", tokens, amounts, graph.tensor(np.array(pad_id, np.int64)))
