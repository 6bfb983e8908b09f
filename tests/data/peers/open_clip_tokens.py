"""The peer's half of test_tokenizer_parity: open_clip's SimpleTokenizer, special tokens spelled as OpenAI's.

Runs under a Python that has open_clip, never imports diptych. Reads lists of strings, one JSON line each;
answers with a digest of each string's row of 77 ids.
"""

import contextlib
import hashlib
import json
import sys

import regex
import torch

# Builds of torchvision without its C++ operators still import open_clip if these two names exist.
_library = torch.library.Library("torchvision", "DEF")
for _signature in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    with contextlib.suppress(RuntimeError):
        _library.define(_signature)

from open_clip.tokenizer import SimpleTokenizer  # noqa: E402

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
        plain = [place for place, text in enumerate(texts) if "<" not in text and "&lt" not in text][::20]
        assert torch.equal(untouched([texts[place] for place in plain]), rows[plain])
        digests = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows.numpy().astype("int64")]
        sys.stdout.write(json.dumps(digests) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
