"""SigLIP's towers as ONNX graphs: the same steps as `diptych.models.towers.siglip`.

Pictures: no class token; a learned query attends to the patches of the last layer, then an MLP. Texts: every
token sees every other, padding too, so nothing is taken out; the last position of the context is read.

Source: Zhai et al. 2023 (SigLIP), section 3; the modules in `diptych.models.towers.siglip`.
"""

from typing import Any

import numpy as np

from diptych.export.graph import Graph
from diptych.export.towers import (
    Lay,
    Part,
    block,
    first_of_each,
    mlp,
    one_query_attention,
    patches,
    transformer,
)


def siglip_vision(part: Part, config: Any, pixels: str) -> str:
    """Return (B, E) features of normalised pictures (B, 3, H, W)."""
    graph, length = part.graph, config.grid[0] * config.grid[1]
    x = graph.reshape(patches(part, config, pixels, part["conv1.bias"]), -1, length, config.width)
    x = graph.add("Add", x, graph.tensor(part["positional_embedding"]))
    rows = graph.reshape(x, -1, config.width)
    lay = Lay(length)
    for number in range(config.layers):
        rows = block(part.below(f"blocks.{number}"), rows, lay, config.heads)
    return _pooled(part.below("head"), part.norm(rows, "ln_post"), lay, config, graph.size(pixels, 0))


def _pooled(part: Part, rows: str, lay: Lay, config: Any, batch: str) -> str:
    """Let the learned query attend to all tokens of each picture, then a residual MLP."""
    graph = part.graph
    probe = graph.tensor(part["probe"].reshape(1, -1))
    probes = graph.add("Expand", probe, graph.add("Concat", batch, graph.ints(config.width), axis=0))
    mixed = one_query_attention(part.below("attn"), probes, rows, lay, config.heads)
    pooled = part.below("attn").linear(mixed, "out_proj")
    return graph.add("Add", pooled, mlp(part.below("mlp"), part.norm(pooled, "ln")))


def siglip_text(part: Part, config: Any, tokens: str) -> str:
    """Return (B, E) features of token ids (B, L) int64, filled up with the pad token to the whole context."""
    graph, context = part.graph, config.context_length
    full = _filled(graph, tokens, context, config.pad_id)
    rows = graph.numbers.rows(graph, part["token_embedding.weight"], graph.reshape(full, -1))
    x = graph.add(
        "Add", graph.reshape(rows, -1, context, config.width), graph.tensor(part["positional_embedding"])
    )
    last = graph.tensor(np.array(context - 1, np.int64))
    readers = graph.add("Add", first_of_each(graph, graph.size(tokens, 0), context), last)
    lay = Lay(context, readers=readers)
    rows = graph.reshape(x, -1, config.width)
    read = transformer(part, rows, lay, layers=config.layers, heads=config.heads)
    read = part.norm(read, "ln_final")
    if not config.head:
        return read
    projected = graph.add("MatMul", read, graph.weight(part["head.weight"].T))
    return graph.add("Add", projected, graph.tensor(part["head.bias"]))


def _filled(graph: Graph, tokens: str, context: int, pad_id: int) -> str:
    """Return (B, context) for (B, L)."""
    missing = graph.add("Sub", graph.ints(context), graph.size(tokens, 1))
    amounts = graph.add("Concat", graph.ints(0, 0, 0), missing, axis=0)
    return graph.add("Pad", tokens, amounts, graph.tensor(np.array(pad_id, np.int64)))
