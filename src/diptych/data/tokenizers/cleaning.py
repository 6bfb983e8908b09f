"""Text as CLIP reads it: repaired, unescaped, lower-cased, in single spaces, cut into words and byte symbols.

Source: openai/CLIP `simple_tokenizer.py` (`basic_clean`, `whitespace_clean`, the pattern and the byte table).
We differ in one point: text is cut at 4,096 characters first, because `ftfy` takes quadratic time on hostile
text.
"""

import html
from functools import cache
from typing import Any

MAX_CHARACTERS = 4096  # CLIP keeps 77 tokens; 1 MB of "&amp;amp;…" would keep ftfy busy for hours
START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"

# Letters in runs, digits one by one, everything else in runs; never across white space. The `regex` module's
# IGNORECASE also lets the long s and the Kelvin sign pass for s and k, as in the original.
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clean(text: str) -> str:
    """Return the text as it is tokenized; it is cut at 4,096 characters before any work.

    >>> clean("  A&amp;amp;B  Café\\n")
    'a&b café'
    """
    return " ".join(chunks(text))


def chunks(text: str) -> list[str]:
    """Return the cleaned text split at white space: no token ever crosses it, so chunks can be cached."""
    # The original lower-cases after joining: the same, because no letter's lower case depends on or makes a
    # space.
    return repaired(text).lower().split()


def repaired(text: str) -> str:
    """Return the start of the text, repaired and unescaped, capitals and spaces as they are."""
    text = text[:MAX_CHARACTERS]
    # Printable ASCII, new lines and tabs without "&" hold no entity, escape sequence or control character.
    is_plain = text.isascii() and "&" not in text
    if is_plain and (text.isprintable() or text.replace("\n", " ").replace("\t", " ").isprintable()):
        return text
    return html.unescape(html.unescape(fix_text(text)))


def words(chunk: str) -> list[str]:
    """Return the words of a cleaned chunk.

    >>> words("dog's"), words("v2.0"), words("<|endoftext|>!")
    (['dog', "'s"], ['v', '2', '.', '0'], ['<|endoftext|>', '!'])
    """
    pieces: list[str] = _pattern().findall(chunk)
    return pieces


def to_symbols(word: str) -> str:
    """Return the word's UTF-8 bytes, each as one printable character.

    >>> to_symbols("é")
    'Ã©'
    """
    table = byte_symbols()
    return "".join([table[byte] for byte in word.encode("utf-8", errors="replace")])


@cache
def byte_symbols() -> tuple[str, ...]:
    """Return the printable character that stands for each byte: itself if printable, else one from 256 on.

    >>> byte_symbols()[ord("!")], byte_symbols()[ord(" ")]
    ('!', 'Ġ')
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)}
    spare = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))


def fix_text(text: str) -> str:
    """Return the text with broken characters repaired by ftfy."""
    import ftfy

    return str(ftfy.fix_text(text))


@cache
def _pattern() -> Any:
    import regex

    return regex.compile(PATTERN, regex.IGNORECASE)
