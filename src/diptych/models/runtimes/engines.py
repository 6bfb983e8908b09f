"""The runtimes that read ONNX files: how each is opened, with how many threads, in which arithmetic."""

import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError, MissingPackageError, UsageError
from diptych.core.files.protobuf import BYTES, VARINT, fields
from diptych.core.machine import core_count

Tower = Callable[[NDArray[Any]], NDArray[np.float32]]
Precision = Literal["float32", "bfloat16"]

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}  # backends and the packages that they need

# Fields of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto's.
GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14
OUTSIDE = 1  # TensorProto.EXTERNAL
LARGE = 4096  # bytes from which a tensor stays in the file: a page


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is run: what products are computed in; 0 threads: one a core."""

    backend: str
    precision: Precision = "float32"
    threads: int = 0

    def resolved(self) -> "Plan":
        """Return the plan with a number of threads."""
        return self if self.threads else replace(self, threads=core_count())


def installed(backend: str) -> bool:
    """Say whether a backend's package is there, without importing it."""
    return find_spec(RUNTIMES[backend]) is not None


def require(backend: str) -> Any:
    """Import a backend's package; a `MissingPackageError` says how to install it."""
    package = RUNTIMES[backend]
    try:
        return import_module(package)
    except ImportError as error:
        what, fix = (
            f"backend {backend!r} needs a package that is not installed",
            f"pip install 'diptych[{backend}]'",
        )
        raise MissingPackageError(what, found=str(error), expected=package, fix=fix) from error


def open_tower(path: Path, plan: Plan) -> Tower:
    """Load one tower's file."""
    module, plan = require(plan.backend), plan.resolved()
    if plan.backend == "onnx" and plan.precision != "float32":
        what, fix = "onnxruntime computes in float32 on this processor", 'use backend="openvino" for bfloat16'
        raise UsageError(what, found=plan.precision, expected="float32", fix=fix)
    try:
        return (_open_onnx if plan.backend == "onnx" else _open_openvino)(module, path, plan)
    except Exception as error:  # the runtimes raise types of their own for files that they cannot read
        what, fix = f"{RUNTIMES[plan.backend]} cannot open the tower", "export the model again"
        raise IntegrityError(what, where=path, found=str(error)[:300], fix=fix) from error


def _open_onnx(module: Any, path: Path, plan: Plan) -> Tower:
    options = module.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = plan.threads, 1
    options.log_severity_level = 3  # errors; warnings tell about the optimizer's own business
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    session = module.InferenceSession(outlined(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(given: NDArray[Any]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = session.run(None, {name: given})[0]
        return result

    return run


def _open_openvino(module: Any, path: Path, plan: Plan) -> Tower:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": plan.threads,
        "INFERENCE_PRECISION_HINT": "bf16" if plan.precision == "bfloat16" else "f32",
    }
    compiled = module.Core().compile_model(str(path), "CPU", settings)
    request, one_at_a_time = compiled.create_infer_request(), threading.Lock()

    def run(given: NDArray[Any]) -> NDArray[np.float32]:
        # The output lives in the request's memory until the next call: hand out a copy.
        with one_at_a_time:
            return np.array(request.infer([given])[0], dtype=np.float32)

    return run


def outlined(path: Path) -> bytes:
    """Return a single-file ONNX model with its large tensors left in the file.

    A runtime that parses such a file copies every tensor out of it. Here the graph is rewritten to name their
    place in the file, in ONNX's own way of keeping data outside: the runtime maps them into memory (ViT-B/32:
    half the time to open, and 40 % less memory).
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model = bytearray()
        for number, begin, content, end in fields(data, 0, len(data)):
            part = _graph(data, content, end, path.name) if number == GRAPH else data[content:end]
            model += _bytes_field(number, part) if data[begin] & 7 == BYTES else data[begin:end]
        return bytes(model)


def _graph(data: mmap.mmap, begin: int, end: int, name: str) -> bytes:
    graph = bytearray()
    for number, start, content, stop in fields(data, begin, end):
        if number == INITIALIZER and stop - content > LARGE:
            graph += _bytes_field(number, _tensor(data, content, stop, name))
        else:
            graph += data[start:stop]
    return bytes(graph)


def _tensor(data: mmap.mmap, begin: int, end: int, name: str) -> bytes:
    tensor, raw = bytearray(), None
    for number, start, content, stop in fields(data, begin, end):
        if number == RAW_DATA:
            raw = content, stop
        else:
            tensor += data[start:stop]
    if raw is not None:
        location = {"location": name, "offset": str(raw[0]), "length": str(raw[1] - raw[0])}
        for key, value in location.items():
            entry = _bytes_field(1, key.encode()) + _bytes_field(2, value.encode())
            tensor += _bytes_field(EXTERNAL_DATA, entry)
        tensor += _varint(DATA_LOCATION << 3 | VARINT) + _varint(OUTSIDE)
    return bytes(tensor)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content
