"""Weights and activations as bytes, with ranges that were measured beforehand.

Per output channel for weights (symmetric int8), per tensor for activations (uint8 with a zero point). The
ranges are constants of the file, so an embedding does not depend on what else is in its batch, and both
onnxruntime and OpenVINO multiply bytes (dynamic ranges cost OpenVINO its fast path: 859 ms against 235 for
three blocks of ViT-B/32 and 32 images; onnxruntime 243 against 261). Behind a LayerNorm, channels with
large activations are divided by a factor that goes into their weights, at no cost: the LayerNorm divides.

LayerNorm, softmax, the activation function and the residual stream stay float32; convolutions, tables and the
few products of the last token are held in half precision.

Source: Jacob et al. 2018, sections 2 and 3; Xiao et al. 2023 (SmoothQuant), equation 4 with its alpha of 0.5.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from diptych.core.machine import core_count
from diptych.export.graph import Array, Graph
from diptych.models.runtimes.engines import require

LEVELS = 127  # of a signed byte; -128 is left out, so that weights are symmetric
STEPS = 255  # of an unsigned byte
SMOOTHING = 0.5
MARGIN = 1.1  # activations of images that were not measured may be so much larger before they are clipped
# Activations and weights below are taken for this, so that silent channels divide by something.
SMALLEST = 1e-5


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and largest value (D_in,) of each channel that went into one linear layer."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


class Observer(Graph):
    """A float32 graph that also returns what goes into each linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: list[str] = []

    def linear(self, name: str, x: str, weight: Array, bias: Array | None) -> str:
        """Multiply in float32; the channels' extremes are further outputs."""
        self.observed.append(name)
        for extreme in ("ReduceMin", "ReduceMax"):
            self.further_outputs.append(self.add(extreme, x, self.ints(0), keepdims=0))
        return super().linear(name, x, weight, bias)


def observe(
    tower: onnx.ModelProto, observed: Iterable[str], batches: Iterable[NDArray[Any]]
) -> dict[str, Range]:
    """Run a graph that an `Observer` drew, on batches; return the ranges by layer, in the graph's order."""
    runtime = require("onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = core_count(), 3
    session = runtime.InferenceSession(tower.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    ranges: dict[str, Range] = {}
    for batch in batches:
        extremes = session.run(None, {given: batch})[1:]
        for name, low, high in zip(observed, extremes[::2], extremes[1::2], strict=True):
            known = ranges.get(name, Range(low, high))
            ranges[name] = Range(np.minimum(known.low, low), np.maximum(known.high, high))
    return ranges


class Int8(Graph):
    """Linear layers in bytes, with ranges by layer from `observe`; other weights in half precision."""

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        super().__init__(half=True)
        self._ranges = ranges
        self._normed, self._norm = "", ("", np.empty(0), np.empty(0), 0.0)  # the last LayerNorm

    def layer_norm(self, x: str, gain: Array, bias: Array, eps: float) -> str:
        """Normalize over the last axis, and remember how."""
        self._normed, self._norm = super().layer_norm(x, gain, bias, eps), (x, gain, bias, eps)
        return self._normed

    def linear(self, name: str, x: str, weight: Array, bias: Array | None) -> str:
        """Quantize x, multiply bytes, and scale the sums back."""
        factors = np.ones(weight.shape[1], np.float32)
        if x == self._normed == self.nodes[-1].output[0]:  # nothing else has used that LayerNorm yet
            factors = smoothing(self._ranges[name], weight)
            self.nodes.pop()
            before, gain, shift, eps = self._norm
            x = self.layer_norm(before, gain / factors, shift / factors, eps)
        step, zero = steps(self._ranges[name], factors)
        bytes_, scale = quantized(weight * factors)
        at = self.tensor(np.array(step)), self.tensor(np.array(zero, np.uint8))
        small = self.add("QuantizeLinear", x, *at)
        given = self.add("DequantizeLinear", small, *at)
        # onnxruntime knows the pattern of a product of bytes only with the zero points written out.
        none = self.tensor(np.zeros(len(scale), np.int8)), self.tensor(np.zeros(len(scale), np.int32))
        held = self.add("DequantizeLinear", self.tensor(bytes_), self.tensor(scale), none[0], axis=0)
        sum_scale = (scale * step).astype(np.float32)
        bias = np.zeros(len(scale), np.float32) if bias is None else bias
        sums = self.tensor(np.rint(bias / sum_scale).astype(np.int32))
        offset = self.add("DequantizeLinear", sums, self.tensor(sum_scale), none[1], axis=0)
        return self.add("Gemm", given, held, offset, transB=1)


def smoothing(inputs: Range, weight: Array) -> NDArray[np.float32]:
    """Return the factor (D_in,) of each channel: activations are divided by it, weights multiplied.

    >>> loud = Range(np.array([-16.0, -1.0], np.float32), np.array([4.0, 1.0], np.float32))
    >>> smoothing(loud, np.ones((3, 2), np.float32)).tolist()
    [4.0, 1.0]
    """
    loudness = np.maximum(np.abs(inputs.low), np.abs(inputs.high)).clip(SMALLEST)
    strength = np.abs(weight).max(axis=0).clip(SMALLEST)
    return np.asarray(loudness**SMOOTHING / strength ** (1 - SMOOTHING), dtype=np.float32)


def steps(inputs: Range, factors: NDArray[np.float32]) -> tuple[np.float32, int]:
    """Return the step and the zero point of a tensor whose channels were divided by factors.

    >>> step, zero = steps(Range(np.array([-1.0]), np.array([4.0])), np.ones(1, np.float32))
    >>> round(float(step), 4), zero
    (0.0216, 51)
    """
    low = min(0.0, float((inputs.low / factors).min())) * MARGIN
    high = max(0.0, float((inputs.high / factors).max())) * MARGIN
    step = np.float32(max(high - low, SMALLEST) / STEPS)
    return step, round(-low / float(step))


def quantized(weight: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights and the float32 scale of each row of float32 weights (D_out, D_in).

    Processors without VNNI add the products of two neighbors in sixteen bits and cut the sum off there, in
    onnxruntime and OpenVINO alike. So two neighbors of one sign share the range: 255 · (127 + 1) fits. On
    ViT-B/32 that costs 0.00005 (images) and 0.0002 (texts) of cosine everywhere; not doing it cost 0.04
    there.

    >>> bytes_, scale = quantized(np.array([[1.0, -0.5], [0.75, 0.25], [0.0, 0.0]], np.float32))
    >>> bytes_.tolist(), [round(float(one) * 127, 6) for one in scale]
    ([[127, -64], [95, 32], [0, 0]], [1.0, 1.0, 1.0])
    """
    rows, columns = weight.shape
    pairs = np.pad(weight, ((0, 0), (0, columns % 2))).reshape(rows, -1, 2)
    largest = np.maximum(pairs.clip(min=0).sum(axis=2), -pairs.clip(max=0).sum(axis=2)).max(axis=1)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LEVELS)
    return np.clip(np.rint(weight / scale[:, None]), -LEVELS, LEVELS).astype(np.int8), scale
