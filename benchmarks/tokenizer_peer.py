"""The other side of `tokenizer.py`: answers questions with open_clip's and transformers' tokenizers.

Runs in the peers' environment, which need not have diptych. Reads questions and writes answers, one JSON line
each.
"""

import time
from importlib.metadata import version
from typing import Any

from contest import answer_questions
from training_peer import import_torchvision

_operators = import_torchvision()

import regex  # noqa: E402
from open_clip.tokenizer import SimpleTokenizer  # noqa: E402

BATCH = 512
OURS = ("<|startoftext|>", "<|endoftext|>")  # OpenAI's spelling
THEIRS = ("<start_of_text>", "<end_of_text>")  # open_clip's spelling of the same two ids
PATTERN = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def openai_spelling() -> SimpleTokenizer:
    """Return open_clip's tokenizer with the special tokens spelled as OpenAI spells them."""
    tokenizer = SimpleTokenizer()
    for ours, theirs in zip(OURS, THEIRS, strict=True):
        tokenizer.encoder[ours] = tokenizer.encoder.pop(theirs)
    tokenizer.cache = {name: name for name in OURS}
    tokenizer.pat = regex.compile(PATTERN, regex.IGNORECASE)
    return tokenizer


def fast_tokenizer():
    """Return transformers' fast CLIP tokenizer over the same merges, or None without transformers."""
    try:
        from transformers import CLIPTokenizerFast
    except ImportError:
        return None
    reference = openai_spelling()
    merges = sorted(reference.bpe_ranks, key=reference.bpe_ranks.get)
    return CLIPTokenizerFast(vocab=dict(reference.encoder), merges=merges, model_max_length=77)


def main() -> None:
    tokenizer, untouched = openai_spelling(), SimpleTokenizer()
    timed = {"open_clip": untouched}
    if (fast := fast_tokenizer()) is not None:
        timed["transformers"] = lambda texts: fast(
            texts, padding="max_length", truncation=True, return_tensors="np"
        )

    def ids(texts: list[str]) -> dict[str, Any]:
        plain = [text for text in texts if "<" not in text]
        assert untouched(plain).tolist() == tokenizer(plain).tolist()
        return {"ids": [tokenizer.encode(text) for text in texts], "rows": tokenizer(texts).tolist()}

    def seconds(name: str, texts: list[str]) -> float:
        begin = time.perf_counter()
        for first in range(0, len(texts), BATCH):
            timed[name](texts[first : first + BATCH])
        return time.perf_counter() - begin

    def names() -> list[str]:
        untouched.cache.clear()
        untouched.cache.update({name: name for name in THEIRS})
        return list(timed)

    def versions() -> dict[str, str]:
        wanted = ("open_clip_torch", "transformers", "tokenizers", "torch", "ftfy", "regex")
        return {name: version(name) for name in wanted}

    answer_questions({"ids": ids, "time": seconds, "names": names, "versions": versions})


if __name__ == "__main__":
    main()
