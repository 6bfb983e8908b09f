"""Weights as int8, and products of int8 with activations that are measured as they come.

Per output channel for weights (symmetric), per tensor for activations (asymmetric uint8, its range found at
every run: nothing has to be calibrated, and pictures unlike any seen before cannot leave the range).
LayerNorm, softmax, the activation and the residual stream stay float32; convolutions and the few products of
the last token are held in half precision.

Source: Jacob et al. 2018, section 2; the operators DynamicQuantizeLinear and MatMulInteger of onnx.ai, in the
pattern that onnxruntime fuses into one kernel.
"""

import numpy as np

from diptych.export.graph import FLOAT, Array, Floats, Graph

LEVELS = 127  # of a signed byte; -128 is left out, so that weights are symmetric


class Int8:
    """Dynamic quantisation; see `diptych.export.graph.Numbers`."""

    def __init__(self) -> None:
        self._floats = Floats(half=True)

    def weight(self, graph: Graph, value: Array) -> str:
        """Hold other weights in half precision."""
        return self._floats.weight(graph, value)

    def rows(self, graph: Graph, table: Array, ids: str) -> str:
        """Look up rows of a table in half precision."""
        return self._floats.rows(graph, table, ids)

    def linear(self, graph: Graph, name: str, x: str, weight: Array, bias: Array | None) -> str:
        """Quantise x by its own range, multiply bytes, and scale the sums back."""
        del name
        bytes_, scale = quantized(weight)
        small, x_scale, x_zero = graph.add_many("DynamicQuantizeLinear", x, outputs=3)
        zero = graph.tensor(np.array(0, np.int8))
        sums = graph.add("MatMulInteger", small, graph.tensor(bytes_.T), x_zero, zero)
        product = graph.add(
            "Mul", graph.add("Cast", sums, to=FLOAT), graph.add("Mul", x_scale, graph.tensor(scale))
        )
        return product if bias is None else graph.add("Add", product, graph.tensor(bias))


def quantized(weight: Array) -> tuple[Array, Array]:
    """Return int8 weights and the float32 scale of each row.

    Args:
        weight: (D_out, D_in) float32.

    >>> bytes_, scale = quantized(np.array([[1.0, -0.5], [0.0, 0.0]], np.float32))
    >>> bytes_.tolist(), float(scale[0]) * 127
    ([[127, -64], [0, 0]], 1.0)
    """
    largest = np.abs(weight).max(axis=1)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LEVELS)
    return np.clip(np.rint(weight / scale[:, None]), -LEVELS, LEVELS).astype(np.int8), scale
