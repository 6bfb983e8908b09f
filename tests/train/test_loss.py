"""The tiled loss equals the plain formula in float64, in value and in all three gradients."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diptych.core.errors import ArrayError
from diptych.models.towers.numerics import numerics
from diptych.train import loss as loss_module
from diptych.train.loss import contrastive_loss


def plain(image: Tensor, text: Tensor, scale: Tensor) -> tuple[float, list[Tensor]]:
    """The formula of the paper's figure 3 with autograd in float64."""
    leaves = [t.detach().double().requires_grad_() for t in (image, text, scale)]
    logits = leaves[2] * leaves[0] @ leaves[1].T
    labels = torch.arange(len(image))
    loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
    loss.backward()
    return loss.item(), [leaf.grad for leaf in leaves]  # type: ignore[misc]


def ours(image: Tensor, text: Tensor, scale: Tensor) -> tuple[float, list[Tensor]]:
    leaves = [t.detach().clone().requires_grad_() for t in (image, text, scale)]
    loss = contrastive_loss(*leaves)
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    loss.backward()
    return loss.item(), [leaf.grad for leaf in leaves]  # type: ignore[misc]


def agree(image: Tensor, text: Tensor, scale: float, tolerance: float = 3e-6) -> None:
    scale_tensor = torch.tensor(scale)
    value, gradients = ours(image, text, scale_tensor)
    expected, expected_gradients = plain(image, text, scale_tensor)
    # a logit of size s carries a rounding error of about s · 2⁻²⁴ in float32, whoever computes it
    room = tolerance * max(1.0, scale / 10)
    assert value == pytest.approx(expected, rel=room, abs=room)
    for found, right in zip(gradients, expected_gradients, strict=True):
        # softmax - 1 of a matched pair keeps float32's absolute rounding, not its relative one
        assert (found.double() - right).abs().max() <= room * max(right.abs().max().item(), 0.05)


def unit(count: int, size: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, size, generator=generator), dim=1)


@pytest.fixture(params=["direct", "tiled", "onednn"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param != "direct":
        monkeypatch.setattr(loss_module, "DIRECT_SIZE", 0)
        monkeypatch.setattr(loss_module, "TILE", 32)
    with numerics("onednn" if request.param == "onednn" else "mkl"):
        yield str(request.param)


@pytest.mark.parametrize("scale", [0.0, 1.0, 14.285714, 100.0])
def test_loss_equals_float64_formula(path: str, scale: float) -> None:
    for count in (1, 2, 3, 31, 32, 33, 64, 97, 300):
        agree(unit(count, seed=1), unit(count, seed=2), scale)


@pytest.mark.parametrize("scale", [14.285714, 100.0])
def test_loss_is_right_when_pairs_match_perfectly_and_when_they_are_opposite(path: str, scale: float) -> None:
    image = unit(70, seed=3)
    agree(image, image, scale)
    agree(image, -image, scale)


def test_loss_is_right_with_duplicates(path: str) -> None:
    image, text = unit(90, seed=4), unit(90, seed=5)
    image[10:40] = image[10]
    text[20:60] = text[20]
    agree(image, text, 100.0)


def test_rows_far_below_the_bound_take_the_exact_path(path: str) -> None:
    """One huge embedding raises the bound so far that every other row would underflow."""
    image, text = unit(65, seed=6), unit(65, seed=7)
    image[5] *= 40.0
    agree(image, text, 20.0, tolerance=1e-4)
    statistics = loss_module._statistics(image * 20.0, text)
    assert not statistics.shared


def test_scale_of_one_hundred_with_low_similarities_needs_no_exact_path() -> None:
    """Trained CLIP models have scale 100 and matched similarities near 0.25: the fast path holds there."""
    common = unit(1, size=256, seed=8)
    image = functional.normalize(unit(300, size=256, seed=9) + 0.3 * common, dim=1)
    text = functional.normalize(unit(300, size=256, seed=10) - 0.3 * common, dim=1)
    assert loss_module._statistics(image * 100.0, text).shared


def test_uniform_similarities_give_ln_n(path: str) -> None:
    same = unit(1).expand(77, -1)
    assert contrastive_loss(same, same, torch.tensor(30.0)).item() == pytest.approx(math.log(77), rel=1e-6)


def test_half_precision_inputs_are_computed_in_float32(path: str) -> None:
    image, text = unit(50, seed=11).bfloat16(), unit(50, seed=12).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(image, text, torch.tensor(50.0))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(plain(image, text, torch.tensor(50.0))[0], rel=1e-5)


def test_upstream_gradient_multiplies(path: str) -> None:
    image, text, scale = unit(40, seed=13).requires_grad_(), unit(40, seed=14), torch.tensor(10.0)
    (contrastive_loss(image, text, scale) * -3.0).backward()
    assert image.grad is not None
    assert torch.allclose(image.grad.double(), -3 * plain(image, text, scale)[1][0], atol=1e-6)


def test_non_finite_embeddings_give_a_non_finite_loss(path: str) -> None:
    image = unit(40, seed=15)
    image[3, 3] = math.nan
    assert math.isnan(contrastive_loss(image, unit(40), torch.tensor(10.0)).item())


def test_no_square_matrix_is_kept_for_many_pairs() -> None:
    image, text = unit(3000, seed=16).requires_grad_(), unit(3000, seed=17).requires_grad_()
    loss = contrastive_loss(image, text, torch.tensor(10.0))
    found = loss.grad_fn.statistics  # type: ignore[union-attr]
    assert found.exponentials is None
    assert found.row_lse.shape == (3000,)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((3, 4), (3, 5)), ((0, 3), (0, 3)), ((3,), (3,))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ArrayError, match=r"cannot pair[\s\S]*expected two"):
        contrastive_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]), torch.tensor(1.0))
