"""Guessing words and writing captions: losses, gradients and scores beside plain formulas."""

import pytest
import torch
from torch import Tensor

from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig
from experiments.claims import predictive

VOCABULARY, START, END = 12, 10, 11
CONFIG = ClipConfig(
    8,
    ResNetConfig((16, 16), (1, 1, 1, 1), 4, 4, stem_pool=False),
    TextConfig(8, VOCABULARY, 16, 2, 2, START, END),
)
TOKENS = torch.tensor([
    [START, 3, 0, 5, END, 0],
    [START, 7, END, 0, 0, 0],
    [START, 3, 3, END, 0, 0],
])  # fmt: skip


def pixels(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_a_word_counts_once_and_nothing_behind_the_end_counts() -> None:
    shares = predictive.word_shares(TOKENS, CONFIG.text)
    expected = torch.zeros(3, VOCABULARY)
    expected[0, [3, 0, 5]] = 1 / 3
    expected[1, 7] = 1
    expected[2, 3] = 1
    torch.testing.assert_close(shares, expected)
    assert predictive.word_shares(torch.tensor([[START, END]]), CONFIG.text).sum() == 0


def test_word_loss_and_its_gradient_are_those_of_softmax_minus_target() -> None:
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1)).requires_grad_()
    shares = predictive.word_shares(TOKENS, CONFIG.text)
    loss = predictive.word_loss(logits, shares, torch.tensor(0.0))
    loss.backward()
    powers = logits.detach().double().exp()
    by_hand = sum(
        -sum(shares[i, v].item() * (powers[i, v] / powers[i].sum()).log().item() for v in range(VOCABULARY))
        for i in range(3)
    )
    assert loss.item() == pytest.approx(by_hand / 3, rel=1e-6)
    assert logits.grad is not None
    expected = (powers / powers.sum(1, keepdim=True) - shares) / 3
    torch.testing.assert_close(logits.grad.double(), expected, atol=1e-7, rtol=1e-5)


def plain_captions(model: predictive.Captioner, features: Tensor, tokens: Tensor) -> list[Tensor]:
    """Write captions one text at a time with a mask of our own: log-probabilities (L - 1, V) of each."""
    found = []
    for picture, row in zip(features, tokens, strict=True):
        length = int((row == END).nonzero()[0]) + 1
        text = model.text
        x = text.token_embedding.weight[row[:length]] + text.positional_embedding[:length]
        x = torch.cat([x[:1] + text.text_projection @ picture, x[1:]])
        later = torch.full((length, length), float("-inf")).triu(1)
        for block in text.blocks:
            rows, attn = block.ln_1(x), block.attn
            split = [
                torch.nn.functional.linear(rows, layer.weight, layer.bias).view(length, 2, 8).transpose(0, 1)
                for layer in (attn.q_proj, attn.k_proj, attn.v_proj)
            ]
            weights = (split[0] @ split[1].transpose(1, 2) / 8**0.5 + later).softmax(-1)
            x = x + attn.out_proj((weights @ split[2]).transpose(0, 1).reshape(length, 16))
            x = x + block.mlp(block.ln_2(x))
        logits = text.ln_final(x)[:-1] @ text.token_embedding.weight.T
        found.append(logits.log_softmax(-1))
    return found


def test_captioner_reads_pictures_and_earlier_tokens_only_forward_and_backward() -> None:
    model = predictive.captioner(CONFIG, seed=3).eval()
    features = model.encode_image(pixels(3)).detach()
    plain = plain_captions(model, features, TOKENS)
    picked = [plain[i][place, TOKENS[i, place + 1]] for i in range(3) for place in range(len(plain[i]))]
    with torch.no_grad():
        loss = predictive.caption_loss(*model(pixels(3), TOKENS))
    assert loss.item() == pytest.approx(-torch.stack(picked).mean().item(), rel=1e-5)
    logits, targets, _ = model.next_tokens(features, TOKENS)
    predictive.caption_loss(logits, targets, torch.tensor(0.0)).backward()
    found = {name: p.grad.clone() for name, p in model.text.named_parameters() if p.grad is not None}
    model.zero_grad()
    (-torch.stack(picked).mean()).backward()
    for name, parameter in model.text.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, atol=2e-6, rtol=1e-4)


def test_caption_scores_are_the_likelihoods_of_beginnings() -> None:
    model = predictive.captioner(CONFIG, seed=4).eval()
    features = model.encode_image(pixels(5)).detach()
    scores = predictive.caption_scores(model, features, TOKENS)
    for i in range(5):
        plain = plain_captions(model, features[i].expand(3, -1), TOKENS)
        for c in range(3):
            expected = sum(plain[c][place, TOKENS[c, place + 1]].item() for place in range(len(plain[c]) - 1))
            assert scores[i, c].item() == pytest.approx(expected, rel=1e-5)


def test_word_scores_sum_the_log_probabilities_of_a_names_words() -> None:
    model = predictive.bag_of_words(CONFIG, seed=5).eval()
    features = model.encode_image(pixels(2)).detach()
    scores = predictive.word_scores(model, features, TOKENS)
    shares = (features @ model.words.weight.T + model.words.bias).softmax(1).detach()
    expected = torch.stack([shares[:, [3, 0, 5]].log().sum(1), shares[:, 7].log(), shares[:, 3].log()], dim=1)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("start", [predictive.bag_of_words, predictive.captioner])
def test_learners_of_one_seed_start_with_clips_picture_tower(start) -> None:  # type: ignore[no-untyped-def]
    clip, model = build(CONFIG, seed=6), start(CONFIG, seed=6)
    for (name, mine), theirs in zip(model.vision.named_parameters(), clip.vision.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
