"""CLIP's tokenizer once more, as short as the published algorithm is: what the fast one is held against.

Source: Sennrich et al. 2016 (merge the pair of lowest rank, everywhere, until none is left); Radford et al.
2019, section 2.2 (bytes as symbols); OpenAI's clean-up and pattern for CLIP.
"""

import html
from itertools import pairwise

import ftfy
import regex

SPLIT = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


def byte_letters() -> dict[int, str]:
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + n) for n, byte in enumerate(others)}


class Oracle:
    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.letters = byte_letters()
        singles = sorted(self.letters.values())
        tokens = [*singles, *(letter + "</w>" for letter in singles), *(a + b for a, b in merges)]
        self.ids = {t: n for n, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
        self.rank = {pair: n for n, pair in enumerate(merges)}

    def word(self, word: str) -> list[int]:
        if word in ("<|startoftext|>", "<|endoftext|>"):
            return [self.ids[word]]
        parts = [self.letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while True:
            known = [(self.rank[pair], pair) for pair in pairwise(parts) if pair in self.rank]
            if not known:
                return [self.ids[part] for part in parts]
            _, (left, right) = min(known)
            merged: list[str] = []
            while parts:
                both = parts[:2] == [left, right]
                merged.append(left + right if both else parts[0])
                parts = parts[2 if both else 1 :]
            parts = merged

    def encode(self, text: str) -> list[int]:
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = " ".join(text.split()).lower()
        return [number for word in SPLIT.findall(text) for number in self.word(word)]
