"""The linear layer's engines agree, forward and backward, and the choice follows the processor's vendor."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.export.small import small_model
from torch.nn import functional as F

from diptych.core.errors import UnknownNameError, UsageError
from diptych.export.onnx import export
from diptych.models import checkpoint
from diptych.models.formats.convert import convert
from diptych.models.towers import numerics as engines
from diptych.models.towers.numerics import Engine, default_engine, linear, numerics, onednn_available


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    default_engine.cache_clear()
    yield
    default_engine.cache_clear()


def operands(*shape: int, out: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator, requires_grad=True)
    weight = torch.randn(out, shape[-1], generator=generator, requires_grad=True)
    bias = torch.randn(out, generator=generator, requires_grad=True)
    return x, weight, bias


@pytest.mark.skipif(not onednn_available(), reason="torch was built without the oneDNN operator")
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (1, 24)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_onednn_equals_mkl_forward_and_backward(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weight, bias = operands(*shape)
    wanted = [x, weight, bias] if with_bias else [x, weight]
    upstream = torch.randn(*shape[:-1], 40, generator=torch.Generator().manual_seed(1))
    with numerics("onednn"):
        found = linear(x, weight, bias if with_bias else None)
    expected = F.linear(x, weight, bias if with_bias else None)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(found, wanted, upstream)
    for one, other in zip(grads, torch.autograd.grad(expected, wanted, upstream), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not onednn_available(), reason="torch was built without the oneDNN operator")
def test_onednn_takes_transposed_inputs_and_inference_mode() -> None:
    _, weight, bias = (tensor.detach() for tensor in operands(6, 24))
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(2)).t()
    with numerics("onednn"), torch.inference_mode():
        assert torch.allclose(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_only_needed_gradients_are_made() -> None:
    x, weight, bias = operands(6, 24)
    with numerics("onednn"):
        loss = linear(x.detach(), weight, bias.detach()).sum()
    (found,) = torch.autograd.grad(loss, [weight])
    assert torch.allclose(found, x.detach().sum(0).expand(40, 24), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["onednn", "mkl"])
def test_other_types_empty_inputs_and_autocast_fall_back(engine: Engine) -> None:
    x, weight, bias = (tensor.detach() for tensor in operands(6, 24))
    with numerics(engine):
        double = linear(x.double(), weight.double(), bias.double())
        assert double.dtype == torch.float64
        assert linear(x[:0], weight, bias).shape == (0, 40)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("vendor", "flag", "engine"),
    [
        ("AuthenticAMD", "avx512f", "onednn"),
        ("AuthenticAMD", "avx2", "mkl"),
        ("GenuineIntel", "avx512f", "mkl"),
        ("", "", "mkl"),
    ],
)
def test_the_processor_decides(
    vendor: str, flag: str, engine: str, monkeypatch: pytest.MonkeyPatch, fresh_choice: None
) -> None:
    monkeypatch.setattr(engines, "processor_fact", lambda *names: vendor)
    monkeypatch.setattr(engines, "processor_flags", lambda: frozenset({flag}))
    monkeypatch.setattr(engines, "onednn_available", lambda: True)
    assert default_engine() == engine


def test_without_the_operator_amd_uses_mkl(monkeypatch: pytest.MonkeyPatch, fresh_choice: None) -> None:
    monkeypatch.setattr(engines, "processor_fact", lambda *names: "AuthenticAMD")
    monkeypatch.setattr(engines, "processor_flags", lambda: frozenset({"avx512f"}))
    monkeypatch.setattr(engines, "onednn_available", lambda: False)
    assert default_engine() == "mkl"
    x, weight, bias = (tensor.detach() for tensor in operands(6, 24))
    with numerics("onednn"):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_an_unknown_engine_is_refused_and_the_override_ends_with_its_block() -> None:
    with pytest.raises(UnknownNameError), numerics("openblas"):  # type: ignore[arg-type]
        pass
    with numerics("mkl"):
        with numerics("onednn"):
            assert engines._override.get() == "onednn"
        assert engines._override.get() == "mkl"
    assert engines._override.get() is None


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("text.token_embedding.weight", torch.bfloat16), ("vision.blocks.0.mlp.c_fc.bias", torch.float64)],
)
def test_a_model_of_any_other_parameter_type_is_written_by_nobody(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = small_model()
    parameter = dict(model.clip.named_parameters())[name]
    parameter.data = parameter.data.to(dtype)
    writers = {
        "save": lambda: checkpoint.save(tmp_path / "out", model),
        "convert": lambda: convert(model, tmp_path / "out", "open_clip"),
        "export": lambda: export(model, tmp_path / "out"),
    }
    for action, write in writers.items():
        with pytest.raises(UsageError, match=f"{action} (.|\n)*{name}(.|\n)*precision="):
            write()
        assert not (tmp_path / "out").exists()
