"""Write an ONNX graph node by node.

Graphs are written out, not traced: tracing cannot freeze a batch size, and the text tower's rows without
padding have no counterpart in what a tracer sees. Only standard operators are used, so onnxruntime, OpenVINO
and others read the same file.

Source: the operators' definitions at onnx.ai, opset 20.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20  # LayerNormalization came with 17, Gelu with 20
IR_VERSION = 10  # what onnx wrote when opset 20 was new: older runtimes refuse newer numbers

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

Array = NDArray[Any]


class Graph:
    """The nodes and tensors of one graph, in the order they run."""

    def __init__(self, weight_format: "WeightFormat") -> None:
        self.weight_format = weight_format
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._more: list[str] = []
        self._norm: tuple[str, str, Array, Array, float] | None = None

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name; "" leaves an optional input out."""
        return self.add_many(operator, *inputs, outputs=1, **attributes)[0]

    def add_many(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs and return their names."""
        number = len(self._nodes)
        names = [f"{operator}_{number}" + f"_{i}" * (outputs > 1) for i in range(outputs)]
        self._nodes.append(
            helper.make_node(operator, inputs, names, name=f"{operator}_{number}", **attributes)
        )
        return names

    def also_return(self, tensor: str) -> None:
        """Make a further tensor an output, under its own name."""
        self._more.append(tensor)

    def tensor(self, value: Array) -> str:
        """Hold a constant as it is and return its name; equal small ones are held once."""
        value = np.ascontiguousarray(value)
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size <= 64 else (len(self._tensors),)
        if key not in self._known:
            self._known[key] = name = f"constant_{len(self._tensors)}"
            self._tensors[name] = numpy_helper.from_array(value, name)
        return self._known[key]

    def ints(self, *values: int) -> str:
        """Hold a list of int64: a shape, axes, indices."""
        return self.tensor(np.array(values, dtype=np.int64))

    def weight(self, value: Array) -> str:
        """Hold a weight in the graph's precision and return a float32 tensor."""
        return self.weight_format.weight(self, value)

    def linear(self, name: str, x: str, weight: Array, bias: Array | None) -> str:
        """Return ``x @ weight.T + bias`` (T, D_out) for x (T, D_in)."""
        return self.weight_format.linear(self, name, x, weight, bias)

    def layer_norm(self, x: str, gain: Array, bias: Array, eps: float) -> str:
        """Normalise over the last axis."""
        given = x, self.tensor(gain), self.tensor(bias)
        name = self.add("LayerNormalization", *given, axis=-1, epsilon=eps)
        self._norm = name, x, gain, bias, eps
        return name

    def divides(self, x: str) -> bool:
        """Say whether x comes straight out of a LayerNorm, and nothing else has used it yet."""
        return self._norm is not None and self._norm[0] == x == self._nodes[-1].output[0]

    def divided(self, factors: Array) -> str:
        """Return what `divides` was asked about with its channels divided: the LayerNorm does it."""
        assert self._norm is not None
        _, x, gain, bias, eps = self._norm
        self._nodes.pop()
        return self.layer_norm(x, gain / factors, bias / factors, eps)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps an axis and -1 is worked out."""
        return self.add("Reshape", x, self.ints(*shape))

    def size(self, x: str, axis: int) -> str:
        """Return one axis of a shape as an int64 list of one."""
        return self.add("Shape", x, start=axis, end=axis + 1)

    def model(
        self,
        name: str,
        given: tuple[str, int, Sequence[int | str]],
        result: tuple[str, str, Sequence[int | str]],
        facts: dict[str, str],
    ) -> onnx.ModelProto:
        """Finish: name, element type and shape of the input (words are axes of any size); the tensor that is
        returned, with name and shape; facts, plain words that travel inside the file.
        """
        tensor, output, shape = result
        used = {name for node in self._nodes for name in node.input}
        self._nodes.append(helper.make_node("Identity", [tensor], [output], name=output))
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(given[0], given[1], given[2])],
            [
                helper.make_tensor_value_info(output, FLOAT, shape),
                *(helper.make_tensor_value_info(more, FLOAT, None) for more in self._more),
            ],
            initializer=[tensor for name, tensor in self._tensors.items() if name in used],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="diptych")
        helper.set_model_props(model, facts)
        return model


class WeightFormat:
    """How a graph holds weights and multiplies by them: float32, or float16 (`half`) computed in float32."""

    def __init__(self, *, half: bool = False) -> None:
        self._half = half

    def weight(self, graph: Graph, value: Array) -> str:
        """Return a float32 tensor that holds (about) these values."""
        if not self._half:
            return graph.tensor(value.astype(np.float32, copy=False))
        return graph.add("Cast", graph.tensor(value.astype(np.float16)), to=FLOAT)

    def rows(self, graph: Graph, table: Array, ids: str) -> str:
        """Return the float32 rows (T, D) of a table (N, D) that `ids` (T,) name."""
        if not self._half:
            return graph.add("Gather", graph.tensor(table), ids, axis=0)
        return graph.add("Cast", graph.add("Gather", graph.tensor(table.astype(np.float16)), ids), to=FLOAT)

    def linear(self, graph: Graph, name: str, x: str, weight: Array, bias: Array | None) -> str:
        """Return ``x @ weight.T + bias`` for x (T, D_in); `name` tells the layers of a tower apart."""
        del name
        given = [x, self.weight(graph, weight), *(() if bias is None else (graph.tensor(bias),))]
        return graph.add("Gemm", *given, transB=1)
