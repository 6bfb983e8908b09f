"""Tokens that somebody added to a CLIP tokenizer (textual inversion, transformers' `add_tokens`).

They are found in the text before the byte-pair merges see it, wherever they stand, the longest first.

Source: `tokenizers` `AddedVocabulary`: tokens that are not `normalized` are looked for in the text as it is
written, the others in what is left, in lower case. Spaces beside a token (`lstrip`, `rstrip`) carry no id.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """One added token.

    Attributes:
        content: how it is written.
        normalized: it is looked for in lower-cased text, else in the text as it is written.
        single_word: it is no part of a longer word.
    """

    content: str
    normalized: bool = True
    single_word: bool = False

    def as_json(self, number: int) -> dict[str, Any]:
        """Return its entry in a tokenizer.json."""
        flags = {"lstrip": False, "rstrip": False, "normalized": self.normalized, "special": False}
        return {"id": number, "content": self.content, "single_word": self.single_word, **flags}


class AddedTokens:
    """Finds added tokens in texts.

    Args:
        tokens: in the order they were added.
        ids: content → id.
    """

    def __init__(self, tokens: Iterable[AddedToken], ids: Mapping[str, int]) -> None:
        self._as_written = _Finder(
            (t.content, t.single_word, ids[t.content]) for t in tokens if not t.normalized
        )
        self._lowered = _Finder(
            (_lower(t.content), t.single_word, ids[t.content]) for t in tokens if t.normalized
        )

    def split(self, text: str) -> Iterator[str | int]:
        """Yield the ids of added tokens, and the lower-cased text between them.

        >>> list(AddedTokens([AddedToken("<cat>")], {"<cat>": 7}).split("A <CAT>!"))
        ['a ', 7, '!']
        """
        for part in self._as_written.split(text):
            if isinstance(part, int):
                yield part
            else:
                yield from self._lowered.split(_lower(part))


class _Finder:
    def __init__(self, tokens: Iterable[tuple[str, bool, int]]) -> None:
        self._ids: dict[str, int] = {}
        patterns: dict[str, str] = {}
        for content, single_word, number in tokens:
            if content not in self._ids:
                self._ids[content] = number
                escaped = re.escape(content)
                patterns[content] = rf"(?<!\w){escaped}(?!\w)" if single_word else escaped
        longest_first = sorted(patterns, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(patterns[content] for content in longest_first) or '(?!)'})")

    def split(self, text: str) -> Iterator[str | int]:
        for place, part in enumerate(self._pattern.split(text)):
            if place % 2:
                yield self._ids[part]
            elif part:
                yield part


def _lower(text: str) -> str:
    return _SPACES.sub(" ", normalize("NFC", text)).lower()
