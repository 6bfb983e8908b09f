"""The peer's half of test_tokenizer_parity: open_clip's SimpleTokenizer, special tokens spelled as OpenAI's.

Runs under a Python that has open_clip, never imports diptych. Reads lists of strings, one JSON line each;
answers with a digest of each string's row of 77 ids.
"""

import hashlib
import json
import sys

import regex
import torch
import torchvision_stub  # noqa: F401 — before open_clip
from open_clip.tokenizer import SimpleTokenizer

OPENAI = ("<|startoftext|>", "<|endoftext|>")
OPEN_CLIP = ("<start_of_text>", "<end_of_text>")  # the same two ids
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def openai_spelling() -> SimpleTokenizer:
    tokenizer = SimpleTokenizer()
    for ours, theirs in zip(OPENAI, OPEN_CLIP, strict=True):
        tokenizer.encoder[ours] = tokenizer.encoder.pop(theirs)
    tokenizer.cache = {name: name for name in OPENAI}
    tokenizer.pat = regex.compile(SPLIT, regex.IGNORECASE)
    return tokenizer


def main() -> None:
    tokenizer, untouched = openai_spelling(), SimpleTokenizer()
    for line in sys.stdin:
        texts = json.loads(line)
        rows = tokenizer(texts)
        plain = [row for row, text in enumerate(texts) if "<" not in text and "&lt" not in text][::20]
        assert torch.equal(untouched([texts[row] for row in plain]), rows[plain])
        digests = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows.numpy().astype("int64")]
        sys.stdout.write(json.dumps(digests) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
