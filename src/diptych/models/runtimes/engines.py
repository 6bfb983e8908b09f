"""The runtimes that read ONNX files: how each is opened, with how many threads, in which arithmetic."""

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
from diptych.core.machine import core_count
from diptych.models.runtimes.onnx_file import outlined

Tower = Callable[[NDArray[Any]], NDArray[np.float32]]
Precision = Literal["float32", "bfloat16"]

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}  # backends and the packages that they need


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
    options.log_severity_level = 3  # errors; warnings tell about the optimiser's own business
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
