"""The runtimes that read ONNX files: which suits a processor, and how each is opened."""

import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError, MissingPackageError, UsageError
from diptych.core.files.protobuf import BYTES, VARINT, fields
from diptych.core.machine import core_count, processor_flags, warn_of_emulated_bfloat16

Tower = Callable[[NDArray[Any]], NDArray[np.float32]]
Precision = Literal["float32", "bfloat16"]

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}  # backends and the packages that they need

# Backends and arithmetic, the fastest first, on processors with one of the flags (none: on all), for files
# that hold weights like this (none: all). The first line that suits decides.
# Measured: images and texts a second, as multiples of open_clip's in float32 (ViT-B/32, batch 32, 2 cores;
# texts padded to 77 tokens); `LOG.md` has the entries.
ONNX, OPENVINO, OPENVINO_BFLOAT16 = ("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")
TABLE: tuple[tuple[set[str], set[str], tuple[tuple[str, str], ...]], ...] = (
    # AMD EPYC: OpenVINO bfloat16 3.2 and 15 to 18; of int8 files 4.9 and 25, in float32 4.9 and 20 to 23, in
    # ONNX Runtime 15 for texts. Intel Xeon with AMX: OpenVINO 4.9. float32 is alike in both.
    ({"avx512_bf16", "amx_bf16"}, set(), (OPENVINO_BFLOAT16, OPENVINO, ONNX)),
    # The same processors without their bfloat16: OpenVINO 4.9 and 20 to 23, ONNX Runtime 15 for texts.
    ({"avx512_vnni", "avx_vnni", "amx_int8"}, {"int8"}, (OPENVINO, ONNX)),
    # AMD EPYC with AVX2 only: int8 files 2.3 in ONNX Runtime, 1.2 in OpenVINO; float32 1.3 in both, and ONNX
    # Runtime is at its first embedding in 0.9 s, OpenVINO in 1.3 s. Others: not measured.
    (set(), set(), (ONNX, OPENVINO)),
)

# Fields of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto's.
GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14
OUTSIDE = 1  # TensorProto.EXTERNAL
LARGE = 4096  # bytes from which a tensor stays in the file: a page


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is run: where, what products are computed in, and in how many threads."""

    backend: str
    precision: str = "float32"
    threads: int = field(default_factory=core_count)


def plans(backend: str, precision: Precision | None, threads: int | None, *, files: str) -> list[Plan]:
    """List the plans to try, the fastest first.

    Args:
        backend: one of `RUNTIMES`, or "auto": by `TABLE`.
        precision: of the arithmetic; None: float32 with a named backend, else by `TABLE`.
        threads: of the runtime; None: one a core.
        files: what the files' weights are held in.
    """
    threads = threads or core_count()
    if precision == "bfloat16":
        warn_of_emulated_bfloat16()
    if backend != "auto":
        return [Plan(backend, precision or "float32", threads)]
    flags = processor_flags()
    order = next(
        order
        for wanted, held, order in TABLE
        if (not wanted or wanted & flags) and (not held or files in held)
    )
    if precision == "bfloat16":
        order = (OPENVINO_BFLOAT16,)
    usable = [
        Plan(name, arithmetic, threads)
        for name, arithmetic in order
        if find_spec(RUNTIMES[name]) and precision in (None, arithmetic)
    ]
    if not usable:
        needed = dict.fromkeys(RUNTIMES[name] for name, _ in order)
        what = "no runtime is installed that can run this export"
        fix = f"pip install 'diptych[{order[-1][0]}]'"
        raise MissingPackageError(what, expected=" or ".join(needed), fix=fix)
    return usable


def require(backend: str) -> Any:
    """Import a backend's package; a `MissingPackageError` says how to install it."""
    package = RUNTIMES[backend]
    try:
        return import_module(package)
    except ImportError as error:
        what = f"backend {backend!r} needs a package that is not installed"
        fix = f"pip install 'diptych[{backend}]'"
        raise MissingPackageError(what, found=str(error), expected=package, fix=fix) from error


def open_tower(path: Path, plan: Plan) -> Tower:
    """Load one tower's file."""
    module = require(plan.backend)
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
