"""Float32 products by the fastest engine in torch for this processor; devices; weights in half precision.

torch's float32 products go to MKL, which on AMD processors takes its AVX2 path and so leaves more than half
of those with AVX-512 idle; oneDNN, inside the same torch, does not (measured on an EPYC Turin: 183 against
400 GFLOP/s). On Intel processors and on AMD's without AVX-512 MKL is as good or better (an EPYC Milan: 185
against 150), so it stays. The choice depends only on the processor and on an explicit override, never on
timing: results are reproducible on one machine.

Source: `docs` of oneDNN's matmul primitive; the operator is torch's own `mkldnn::_linear_pointwise`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import SettingsError, UsageError, unknown_name
from diptych.core.machine import multiplies_bfloat16, processor_fact, processor_flags

Engine = Literal["onednn", "mkl"]
ENGINES: tuple[Engine, ...] = ("onednn", "mkl")

_override: ContextVar[Engine | None] = ContextVar("diptych_numerics", default=None)


@contextmanager
def numerics(engine: Engine) -> Iterator[None]:
    """Run float32 linear layers through the named engine inside the ``with`` block."""
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    token = _override.set(engine)
    try:
        yield
    finally:
        _override.reset(token)


def device_of(name: str | torch.device, *, where: str = "device", fix: str = "") -> torch.device:
    """Return a device of this machine."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        what, expected = "there is no such device here", "cpu, cuda, cuda:1 or mps"
        found = f"{str(name)!r}: {str(error).splitlines()[0][:200]}"
        raise SettingsError(what, where=where, found=found, expected=expected, fix=fix) from error


@cache
def default_engine() -> Engine:
    """Return the engine: oneDNN on AMD processors with AVX-512, MKL elsewhere or without the operator."""
    wide = processor_fact("vendor_id") == "AuthenticAMD" and "avx512f" in processor_flags()
    return "onednn" if wide and onednn_available() else "mkl"


@cache
def onednn_available() -> bool:
    """Say whether torch was built with oneDNN and still has the operator that `linear` calls."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def current_engine() -> Engine:
    """Return the engine in force here: that of the innermost `numerics` block, or this processor's."""
    return _override.get() or default_engine()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x @ weight.T + bias``, equal to torch's up to float32 rounding, by the engine in force."""
    if not _suits_onednn(x, weight) or current_engine() == "mkl":
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return cast(Tensor, _OneDnnLinear.apply(x, weight, bias))  # type: ignore[no-untyped-call]
    return _product(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and onednn_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(rows, weight.t().contiguous(), None).view(x.shape)
        if ctx.needs_input_grad[1]:
            inputs = x.reshape(-1, x.shape[-1])
            grad_weight = _product(rows.t().contiguous(), inputs.t().contiguous(), None)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias


HeldIn = Literal["float32", "bfloat16", "auto"]
PRECISIONS: tuple[HeldIn, ...] = ("float32", "bfloat16", "auto")


@torch.no_grad()
def hold_in(module: nn.Module, precision: HeldIn) -> None:
    """Hold a model's weights in a precision for inference, in place.

    Norms and scalars stay float32: they cost nothing, and their statistics are where half precision shows.
    Unlike autocast, which turns weights at every call, this halves the memory that a product reads.

    "auto" is bfloat16 where the processor multiplies it in hardware.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", str(precision), PRECISIONS)
    half = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16())
    dtype = torch.bfloat16 if half else torch.float32
    for part in module.modules():
        if isinstance(part, nn.LayerNorm | nn.BatchNorm2d):
            continue
        for parameter in part.parameters(recurse=False):
            if parameter.ndim:
                parameter.data = parameter.data.to(dtype)


def require_float32(module: nn.Module, action: str) -> None:
    """Refuse to `action` ("save", "export") a model whose weights were rounded: the result would differ."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            what, found = f"cannot {action} a model that is not held in float32", str(tensor.dtype)[6:]
            fix = "load the model again without precision="
            raise UsageError(what, where=name, found=found, expected="float32", fix=fix)
