"""The two objectives that the paper measured contrastive learning against: guess the words, or the text.

Both keep Clip's image tower and its starting weights, and both are what the trainer's steps expect: a model
whose `forward` gives three tensors, and a loss that takes them.

- `BagOfWords`: a linear layer on image_features guesses which tokens a caption holds, in any order.
- `Captioner`: Clip's own text Transformer writes the caption token by token. The image comes in with the
  start token, through the transposed text projection, and answers leave through the transposed token
  embedding: the same parameters as Clip's, none added.

Source: Radford et al. 2021, section 2.3 and figure 2; Joulin et al. 2016 (softmax over a caption's words);
Desai and Johnson 2021 (VirTex, the caption). We differ: a word is a token of the vocabulary, and the
captioner sees one image_features row, where VirTex attends to the last convolution's grid.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.inputs import text_lengths
from diptych.models.towers.blocks import Linear
from diptych.models.towers.clip import Clip, build
from diptych.models.towers.config import ClipConfig, TextConfig
from diptych.models.towers.text import TextTransformer, pack_sequences

TEXTS_AT_ONCE = 4096
"""Texts that the captioner scores together: their logits over 1,024 tokens fill about 50 MB."""


class BagOfWords(Clip):
    """An image tower with a linear layer behind it, one output per token of the vocabulary."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        del self.text
        self.words = Linear(config.embed_dim, _text(config).vocab_size)

    def forward(  # type: ignore[override]  # the loss needs the ids themselves
        self, pixels: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Guess the words of captions.

        Args:
            pixels: (B, 3, H, W) normalized images.
            tokens: (B, L) int64, their captions.

        Returns:
            logits (B, V), what they should say (B, V) (see `word_shares`), and the 0-D scale, unused.
        """
        logits = self.words(self.encode_image(pixels))
        return logits, word_shares(tokens, _text(self.config)), self.logit_scale


class Captioner(Clip):
    """An image tower and a text Transformer that writes what the image shows."""

    def forward(  # type: ignore[override]  # the loss needs the ids themselves
        self, pixels: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Guess every token of captions from the image and the tokens before it.

        Args:
            pixels: (B, 3, H, W) normalized images.
            tokens: (B, L) int64, their captions.

        Returns:
            logits (T, V), the tokens that follow (T,) int64, and the 0-D scale, which is unused; T counts all
            tokens of the batch but the start tokens.
        """
        logits, targets, _ = self.next_tokens(self.encode_image(pixels), tokens)
        return logits, targets, self.logit_scale

    def next_tokens(self, image_features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (T, V), the tokens that follow (T,) and the caller's text of each (T,) int64.

        Args:
            image_features: (B, E), one row per text.
            tokens: (B, L) int64.
        """
        text = cast(TextTransformer, self.text)
        plan = pack_sequences(tokens, text.config.end_id)
        rows = text.token_embedding(plan.ids) + F.embedding(plan.positions, text.positional_embedding)
        first = plan.positions == 0
        callers = plan.ranks.argsort()  # of each text in the plan's order
        images = image_features[callers] @ text.text_projection.T
        rows = rows.index_add(0, first.nonzero().squeeze(1), images.to(rows.dtype))
        read = text.ln_final(text.blocks(rows, plan.groups))
        known = torch.ones_like(first)
        known[plan.eot_positions] = False  # nothing follows an end token
        places = known.nonzero().squeeze(1)
        logits = F.linear(read[places], text.token_embedding.weight)
        owners = callers[first.long().cumsum(0) - 1]
        return logits, plan.ids[places + 1], owners[places]


def word_shares(tokens: Tensor, text: TextConfig) -> Tensor:
    """Share one out among the different tokens of each text; start, end and what follows do not count.

    Args:
        tokens: (B, L) int64, an end token in every row.
        text: knows the vocabulary's size and its end token.

    Returns:
        (B, V) float32; rows sum to one, those of empty texts to zero.

    >>> small = TextConfig(vocab_size=5, start_id=3, end_id=4)
    >>> word_shares(torch.tensor([[3, 1, 0, 1, 4, 0]]), small).tolist()
    [[0.5, 0.5, 0.0, 0.0, 0.0]]
    """
    inside = (tokens == text.end_id).long().cumsum(1) == 0
    inside[:, 0] = False
    rows, columns = inside.nonzero(as_tuple=True)
    held = torch.zeros(len(tokens), text.vocab_size, device=tokens.device)
    held[rows, tokens[rows, columns]] = 1.0
    return held / held.sum(dim=1, keepdim=True).clamp(min=1.0)


def word_loss(logits: Tensor, shares: Tensor, scale: Tensor) -> Tensor:
    """Return the cross-entropy between the guessed words and a caption's.

    Args:
        logits: (B, V).
        shares: (B, V), see `word_shares`.
        scale: unused; what the trainer's steps hand to every loss.

    Returns:
        0-D float32; ln V when nothing is known.
    """
    del scale
    return -(shares * logits.float().log_softmax(dim=1)).sum(dim=1).mean()


def caption_loss(logits: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Return the mean cross-entropy of the tokens that follow.

    Args:
        logits: (T, V).
        targets: (T,) int64.
        scale: unused, as in `word_loss`.

    Returns:
        0-D float32; ln V when nothing is known.
    """
    del scale
    return F.cross_entropy(logits.float(), targets)


def bag_of_words(config: ClipConfig, *, seed: int) -> BagOfWords:
    """Return a new `BagOfWords` whose image tower starts as that of `build(config, seed=seed)`."""
    model = BagOfWords(config)
    model.load_state_dict(build(config, seed=seed).state_dict(), strict=False)
    nn.init.normal_(
        model.words.weight, std=config.embed_dim**-0.5, generator=torch.Generator().manual_seed(seed)
    )
    nn.init.zeros_(model.words.bias)
    return model


def captioner(config: ClipConfig, *, seed: int) -> Captioner:
    """Return a new `Captioner` with the starting weights of `build(config, seed=seed)`."""
    model = Captioner(config)
    model.load_state_dict(build(config, seed=seed).state_dict())
    return model


@torch.inference_mode()
def word_scores(model: BagOfWords, image_features: Tensor, tokens: Tensor) -> Tensor:
    """Score texts by the log-probabilities of their words, summed.

    Args:
        model: a trained one.
        image_features: (N, E).
        tokens: (C, L) int64, one text per class.

    Returns:
        (N, C) float32.
    """
    held = (word_shares(tokens, _text(model.config)) > 0).float()
    return cast(Tensor, model.words(image_features)).float().log_softmax(dim=1) @ held.T


@torch.inference_mode()
def caption_scores(model: Captioner, image_features: Tensor, tokens: Tensor) -> Tensor:
    """Score texts by the log-probability that the image's caption begins with each.

    The end token is not asked for: a caption may go on behind a name. Texts that differ in their last token
    only are read once.

    Args:
        model: a trained one.
        image_features: (N, E).
        tokens: (C, L) int64, one text of at least one token per class.

    Returns:
        (N, C) float32.
    """
    end_id = _text(model.config).end_id
    beginnings, last = _without_last(tokens, end_id)
    distinct, of_class = torch.unique(beginnings, dim=0, return_inverse=True)
    count = len(distinct)
    found = [torch.empty(0, len(tokens))]
    for rows in torch.split(image_features, max(1, TEXTS_AT_ONCE // count)):
        logits, targets, owners = model.next_tokens(
            rows.repeat_interleave(count, dim=0), distinct.repeat(len(rows), 1)
        )
        known = logits.float().log_softmax(dim=1)
        ends = targets == end_id
        each = known.gather(1, targets[:, None])[:, 0].masked_fill(ends, 0.0)
        sums = each.new_zeros(len(rows) * count).index_add(0, owners, each).view(len(rows), count)
        follow = known[ends][owners[ends].argsort()].view(len(rows), count, -1)
        found.append(sums[:, of_class] + follow[:, of_class, last])
    return torch.cat(found)


def _without_last(tokens: Tensor, end_id: int) -> tuple[Tensor, Tensor]:
    """Return texts (C, L) that end a token earlier, and the tokens (C,) that they miss."""
    ends = torch.from_numpy(text_lengths(tokens.numpy(), end_id)) - 1
    places = torch.arange(len(tokens))
    shorter = tokens.clone()
    shorter[places, ends - 1] = end_id
    shorter[places, ends] = 0
    return shorter, tokens[places, ends - 1]


def _text(config: ClipConfig) -> TextConfig:
    """Return the causal text tower's configuration: the only one whose captions these objectives read."""
    return cast(TextConfig, config.text)
