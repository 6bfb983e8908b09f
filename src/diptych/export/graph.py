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
    """The nodes and tensors of one graph, in the order they run.

    Weights are held in float32, or in float16 (`half`) that is computed in float32.
    """

    def __init__(self, *, half: bool = False) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.further_outputs: list[str] = []
        self._half = half
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name; "" leaves an optional input out."""
        return self.add_many(operator, *inputs, outputs=1, **attributes)[0]

    def add_many(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs and return their names."""
        name = f"{operator}_{len(self.nodes)}"
        names = [name + f"_{i}" * (outputs > 1) for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names

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

    def scalar(self, value: int) -> str:
        """Hold one int64 (0-D)."""
        return self.tensor(np.array(value, np.int64))

    def weight(self, value: Array) -> str:
        """Hold a weight in the graph's precision and return a float32 tensor of (about) these values."""
        if not self._half:
            return self.tensor(value.astype(np.float32, copy=False))
        return self.add("Cast", self.tensor(value.astype(np.float16)), to=FLOAT)

    def table_rows(self, table: Array, ids: str) -> str:
        """Return the float32 rows (T, D) of a table (N, D) that `ids` (T,) name."""
        if not self._half:
            return self.add("Gather", self.tensor(table), ids, axis=0)
        return self.add("Cast", self.add("Gather", self.tensor(table.astype(np.float16)), ids), to=FLOAT)

    def linear(self, name: str, x: str, weight: Array, bias: Array | None) -> str:
        """Return ``x @ weight.T + bias`` (T, D_out) for x (T, D_in); `name` tells a tower's layers apart."""
        del name
        given = [x, self.weight(weight), *(() if bias is None else (self.tensor(bias),))]
        return self.add("Gemm", *given, transB=1)

    def layer_norm(self, x: str, gain: Array, bias: Array, eps: float) -> str:
        """Normalize over the last axis."""
        given = x, self.tensor(gain), self.tensor(bias)
        return self.add("LayerNormalization", *given, axis=-1, epsilon=eps)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps an axis and -1 is worked out."""
        return self.add("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *axes: int) -> str:
        """Return x with its axes in this order."""
        return self.add("Transpose", x, perm=axes)

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
        used = {name for node in self.nodes for name in node.input}
        self.nodes.append(helper.make_node("Identity", [tensor], [output], name=output))
        further = [helper.make_tensor_value_info(more, FLOAT, None) for more in self.further_outputs]
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*given)],
            [helper.make_tensor_value_info(output, FLOAT, shape), *further],
            initializer=[tensor for name, tensor in self._tensors.items() if name in used],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="diptych")
        helper.set_model_props(model, facts)
        return model
