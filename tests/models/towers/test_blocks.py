"""Blocks by the definition of their parts."""

import pytest
import torch
from torch import nn

from diptych.models.towers.blocks import Attention, Block, LayerNorm, Patches, one_query_attention, quick_gelu


def rows(count: int, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block(*, causal: bool) -> Block:
    torch.manual_seed(0)
    return Block(32, 4, mlp_ratio=4.0, activation="quick_gelu", eps=1e-5, causal=causal).double()


def test_quick_gelu_is_x_times_the_sigmoid_of_1_702_x_with_its_derivative() -> None:
    x = torch.linspace(-8, 8, 401, dtype=torch.float64, requires_grad=True)
    s = torch.sigmoid(1.702 * x)
    assert torch.allclose(quick_gelu(x), x * s, rtol=0, atol=1e-14)
    before = x.detach().clone()
    (slope,) = torch.autograd.grad(quick_gelu(x).sum(), [x])
    assert torch.equal(x.detach(), before)
    assert torch.allclose(slope, s + 1.702 * x * s * (1 - s), rtol=0, atol=1e-14)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_torchs_multihead_attention(causal: bool) -> None:
    torch.manual_seed(0)
    ours = Attention(32, 4, causal=causal).double()
    peer = nn.MultiheadAttention(32, 4, batch_first=True).double()
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]))
        peer.in_proj_bias.copy_(torch.cat([ours.q_proj.bias, ours.k_proj.bias, ours.v_proj.bias]))
    peer.out_proj.load_state_dict(ours.out_proj.state_dict())
    x = rows(15).view(3, 5, 32)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = peer(x, x, x, attn_mask=mask, need_weights=False)
    assert torch.allclose(ours(x.view(15, 32), [(3, 5)]).view(3, 5, 32), expected, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_groups_do_not_see_each_other(causal: bool) -> None:
    one = block(causal=causal)
    x, groups = rows(2 * 3 + 1 * 5), [(2, 3), (1, 5)]
    together = one(x, groups)
    apart = torch.cat([one(x[:3], [(1, 3)]), one(x[3:6], [(1, 3)]), one(x[6:], [(1, 5)])])
    assert torch.allclose(together, apart, atol=1e-12)


@pytest.mark.parametrize(("causal", "pool_rows"), [(False, [0, 3, 6]), (True, [2, 5, 10])])
def test_reading_one_token_equals_that_row_of_the_whole_block(causal: bool, pool_rows: list[int]) -> None:
    one, x, groups = block(causal=causal), rows(11), [(2, 3), (1, 5)]
    index = torch.tensor(pool_rows)
    whole, read = one(x, groups)[index], one.pooled(x, groups, index, [None, None])
    assert torch.allclose(read, whole, atol=1e-12)
    parameters = list(one.parameters())
    weights = rows(3, seed=3)
    found = torch.autograd.grad((read * weights).sum(), parameters)
    expected = torch.autograd.grad((whole * weights).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_invisible_keys_change_nothing() -> None:
    attention = block(causal=True).attn
    x = rows(2 * 4)
    visible = torch.tensor([[True, True, True, False], [True, True, True, True]])
    noisy = x.clone()
    noisy[3] += 100
    queries = x[[2, 7]]
    one, other = (one_query_attention(attention, queries, r, [(2, 4)], [visible]) for r in (x, noisy))
    assert torch.equal(one, other)


def test_layer_norm_computes_in_float32_and_keeps_the_type() -> None:
    norm = LayerNorm(64)
    x = (torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * 30 + 200).bfloat16()
    expected = nn.functional.layer_norm(x.float(), (64,))
    found = norm(x)
    assert found.dtype == torch.bfloat16
    # Half a unit in the last place of bfloat16, relative 2^-9.
    assert torch.allclose(found.float(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("length", [5, 40])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_training_takes_other_kernels_to_the_same_numbers(length: int, causal: bool) -> None:
    one = block(causal=causal).float()
    x = rows(3 * length).float()
    exact = one(x, [(3, length)])
    expected = torch.autograd.grad(exact.square().sum(), list(one.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = one(x, [(3, length)])
    found = torch.autograd.grad(rough.float().square().sum(), list(one.parameters()))
    # bfloat16 keeps 8 bits: 2^-8 per rounding, a few of them in a row.
    assert (rough - exact).norm() / exact.norm() < 2**-6
    # All at once: the true gradient of the keys' bias is zero, so its own relative error means nothing.
    one_vector, other = (torch.cat([grad.flatten() for grad in grads]) for grads in (found, expected))
    assert (one_vector - other).norm() / other.norm() < 2**-5


def test_few_rows_and_many_rows_give_the_same_mlp() -> None:
    mlp = block(causal=False).mlp
    x = rows(80)
    many = mlp(x)
    few = torch.cat([mlp(part) for part in x.split(8)])
    assert torch.allclose(many, few, atol=1e-12)


@pytest.mark.parametrize(("size", "side"), [(8, (32, 24)), (7, (30, 23))])
def test_patches_as_a_product_equal_the_convolution(size: int, side: tuple[int, int]) -> None:
    patches = Patches(16, size, bias=True).double()
    pixels = torch.randn(3, 3, *side, dtype=torch.float64)
    for given in (pixels, pixels.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(patches.product(given), patches(given), atol=1e-12, rtol=0)
    assert patches.product(pixels[:0]).shape == patches(pixels[:0]).shape
