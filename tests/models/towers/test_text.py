"""The text tower against a plain padded Transformer and against transformers' CLIPTextModel."""

import numpy as np
import pytest
import torch
from tests.models.towers.small import copy_blocks, lively
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import DataError
from diptych.models.towers.blocks import Block
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, TextConfig, VitConfig
from diptych.models.towers.text import TextTransformer, pack_sequences

CONFIG = TextConfig(context_length=32, vocab_size=300, width=64, layers=3, heads=4, start_id=298, end_id=299)


def tower(seed: int = 0) -> TextTransformer:
    clip = build(ClipConfig(48, VitConfig((16, 16), 8, 32, 1, 2), CONFIG), seed=seed)
    return lively(clip.text, seed=seed)  # type: ignore[return-value]


def captions(count: int, *, shortest: int = 2, longest: int = 20, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    tokens = np.zeros((count, CONFIG.context_length), np.int64)
    for row in tokens:
        length = rng.integers(shortest, longest + 1)
        row[: length - 1] = rng.integers(1, 298, length - 1)
        row[0] = CONFIG.start_id
        row[length - 1] = CONFIG.end_id
    return torch.from_numpy(tokens)


def padded(text: TextTransformer, tokens: Tensor) -> Tensor:
    """The paper's text tower, spelled plainly: every position of the full context."""
    ends = (tokens == CONFIG.end_id).int().argmax(1)
    x = F.embedding(tokens, text.token_embedding.weight) + text.positional_embedding
    mask = torch.full((tokens.shape[1],) * 2, float("-inf"), dtype=x.dtype).triu(1)
    for block in text.blocks:
        assert isinstance(block, Block)
        a, y = block.attn, F.layer_norm(x, (CONFIG.width,), block.ln_1.weight, block.ln_1.bias)
        y = y.transpose(0, 1)
        packed = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
        bias = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias])
        mixed, _ = F.multi_head_attention_forward(
            y, y, y, CONFIG.width, CONFIG.heads, packed, bias, None, None, False, 0.0,
            a.out_proj.weight, a.out_proj.bias, attn_mask=mask, need_weights=False,
        )  # fmt: skip
        x = x + mixed.transpose(0, 1)
        y = F.layer_norm(x, (CONFIG.width,), block.ln_2.weight, block.ln_2.bias)
        y = F.linear(y, block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        x = x + F.linear(y * torch.sigmoid(1.702 * y), block.mlp.c_proj.weight, block.mlp.c_proj.bias)
    x = F.layer_norm(x, (CONFIG.width,), text.ln_final.weight, text.ln_final.bias)
    return x[torch.arange(len(x)), ends] @ text.text_projection


@pytest.mark.parametrize("seed", range(4))
def test_only_needed_tokens_give_the_embeddings_of_the_padded_context(seed: int) -> None:
    text, tokens = tower(seed), captions(33, seed=seed)
    with torch.no_grad():
        ours, plain = (F.normalize(f, dim=-1) for f in (text(tokens), padded(text, tokens)))
    assert (ours - plain).abs().max() < 1e-6


def test_only_needed_tokens_give_the_gradients_of_the_padded_context() -> None:
    text, tokens = tower().double(), captions(17)
    weights = torch.randn(17, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    plain = torch.autograd.grad((padded(text, tokens) * weights).sum(), list(text.parameters()))
    ours = torch.autograd.grad((text(tokens) * weights).sum(), list(text.parameters()))
    for (name, _), expected, found in zip(text.named_parameters(), plain, ours, strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9), name


def test_what_stands_behind_the_end_token_changes_nothing() -> None:
    text, tokens = tower(), captions(9, longest=12)
    noisy = tokens.clone()
    noisy[:, 13:] = torch.randint(1, 300, noisy[:, 13:].shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(text(tokens), text(noisy))
        assert torch.equal(text(tokens), text(tokens[:, :12])), "cut to the longest text"


def test_one_padded_group_equals_many_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    text, tokens = tower(), captions(21)
    with torch.no_grad():
        many = text(tokens)
        monkeypatch.setattr(
            "diptych.models.towers.text.pack_sequences",
            lambda ids, end, one_group: pack_sequences(ids, end, one_group=True),
        )
        one = text(tokens)
    assert torch.allclose(many, one, atol=1e-5)


def test_equal_lengths_and_single_rows_work() -> None:
    text = tower()
    tokens = captions(5, shortest=7, longest=7)
    with torch.no_grad():
        assert torch.allclose(text(tokens), padded(text, tokens), atol=1e-5)
        assert torch.allclose(text(tokens[:1]), padded(text, tokens[:1]), atol=1e-5)
        assert text(tokens[:0]).shape == (0, 48)


def test_plan_holds_exactly_the_needed_tokens() -> None:
    tokens = torch.tensor([[8, 1, 2, 9, 0], [8, 9, 0, 0, 0], [8, 3, 4, 9, 5]])
    plan = pack_sequences(tokens, 9)
    assert plan.ids.tolist() == [8, 9, 8, 1, 2, 9, 8, 3, 4, 9]
    assert plan.positions.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3]
    assert plan.groups == ((1, 2), (2, 4))
    assert plan.eot_positions.tolist() == [1, 5, 9]
    assert plan.ranks.tolist() == [1, 0, 2]


def test_texts_without_end_or_beyond_the_context_are_refused() -> None:
    tokens = captions(4)
    tokens[2] = 5
    with pytest.raises(DataError, match=r"no end token[\s\S]*row 2 of 4"):
        tower()(tokens)
    long = torch.ones(1, 40, dtype=torch.int64)
    long[0, -1] = CONFIG.end_id
    with pytest.raises(DataError, match="longer than the model's context"):
        tower()(long)


def test_text_tower_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    text, tokens = tower(3), captions(10)
    config = transformers.CLIPTextConfig(
        vocab_size=300, hidden_size=64, intermediate_size=256, projection_dim=48, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=32, hidden_act="quick_gelu", eos_token_id=299,
        bos_token_id=298, pad_token_id=0,
    )  # fmt: skip
    peer = transformers.CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        inner = peer.text_model
        inner.embeddings.token_embedding.weight.copy_(text.token_embedding.weight)
        inner.embeddings.position_embedding.weight.copy_(text.positional_embedding)
        copy_blocks(text.blocks, inner.encoder.layers)
        inner.final_layer_norm.load_state_dict(text.ln_final.state_dict())
        peer.text_projection.weight.copy_(text.text_projection.t())
        expected = peer(input_ids=tokens).text_embeds
        assert (F.normalize(text(tokens), dim=-1) - F.normalize(expected, dim=-1)).abs().max() < 1e-5
