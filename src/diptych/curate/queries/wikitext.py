"""Wikitext as prose: what a reader of the page sees, one paragraph, heading or list item a line.

One pass over the bytes with a stack of what is open:

- Templates `{{…}}` and tables `{|…|}` go, however nested; so do comments, and the tags of `RAW` with their
  content. What opens and never closes is text, except a comment, which then hides the rest of the page.
- `[[target|label]]` leaves the label, `[[target]]` the target, and what is glued to it stays glued
  (`[[dog]]s` is "dogs"). Links to files and categories go with their captions, those to the same article in
  another language too; `[[:Category:…]]` is text. `[https://… label]` leaves the label; bare addresses go.
- Tags that stand inside a line vanish (`H<sub>2</sub>O` is "H2O"), any other one ends the line; its content
  stays. Quotes for bold and italic vanish, as do switches such as `__NOTOC__`. Signs of headings and lists
  stay: they separate words. Character references (`&nbsp;`, `&#233;`) become their characters, last.

Ours rather than mwparserfromhell, which parses 1.65 MB of wikitext a second; the whole stage of counting,
from a bz2 dump, does 6.6 MB a second.

Source: mediawiki.org, "Help:Formatting" and "Help:Links". We differ: templates are not expanded.
"""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.curate.kernels import SPACE, grown, njit

NAME_BYTES = 16  # longest name of a tag that is told apart
TAG_BYTES = 4096  # a "<" whose ">" is farther away is no tag

NEWLINE, QUOTE, LESS, GREATER, SLASH, COLON, BAR, BANG, DASH, UNDERSCORE, DOUBLE_QUOTE = b"\n'<>/:|!-_\""
OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET, LETTER_H, LETTER_S, LETTER_T = b"{}[]hst"
TEMPLATE, TABLE = 0, 1


def _names(names: str) -> Any:
    split = [name.encode().ljust(NAME_BYTES, b"\0") for name in names.split()]
    return np.frombuffer(b"".join(split), np.uint8).reshape(-1, NAME_BYTES)


# Tags whose content is no prose: it goes with them.
RAW = _names(
    "ref references math chem ce gallery timeline syntaxhighlight source score pre graph imagemap style "
    "hiero templatedata mapframe maplink templatestyles inputbox categorytree indicator"
)
# Tags that stand inside words and lines: they vanish without a trace. Any other ends the line.
INLINE = _names(
    "b i u s em strong small big sub sup span font abbr a tt code nowiki cite mark q var del ins bdi kbd wbr"
)
# Namespaces whose links put nothing into the prose.
UNSEEN = _names("file image category media")


def plain_lines(pages: Sequence[str]) -> pa.Array:
    """Return the prose of pages of wikitext: (N,) large strings, one line each, none empty.

    >>> plain_lines(["'''Dogs''' are {{so}}[[mammal|mammals]].<ref>x</ref>\\n* [[Cat]]s"]).to_pylist()
    ['Dogs are  mammals. ', '* Cats']
    """
    parts = [page.encode("utf-8", "replace") for page in pages]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    text = _prose(np.frombuffer(b"".join(parts) or b"\n", np.uint8), offsets).tobytes()
    if b"&" in text:
        text = html.unescape(text.decode("utf-8")).encode("utf-8", "replace")
    return lines_of(text)


def lines_of(text: bytes) -> pa.Array:
    """Return what separates two line feeds of a text in UTF-8, whose last line may lack its end.

    >>> lines_of(b"a\\nb c\\n\\nd").to_pylist()
    ['a', 'b c', '', 'd']
    """
    if not text:
        return pa.array([], pa.large_string())
    whole = pa.array([text.removesuffix(b"\n")], pa.large_binary()).cast(pa.large_string())
    return pc.split_pattern(whole, "\n").flatten()


@njit(cache=True, nogil=True)
def _at(data: Any, at: int, stop: int) -> int:
    return data[at] if at < stop else 0


@njit(cache=True, nogil=True)
def _lower(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:
    return 97 <= _lower(byte) <= 122


@njit(cache=True, nogil=True)
def _find(data: Any, at: int, stop: int, one: int, two: int, three: int) -> int:
    """Return where three bytes follow each other, or -1."""
    for here in range(at, stop - 2):
        if data[here] == one and data[here + 1] == two and data[here + 2] == three:
            return here
    return -1


@njit(cache=True, nogil=True)
def _which(data: Any, at: int, stop: int, names: Any) -> int:
    """Return which of the names stands here, whatever its case, or -1."""
    for row in range(len(names)):
        size = 0
        while (
            size < NAME_BYTES and names[row, size] and _lower(_at(data, at + size, stop)) == names[row, size]
        ):
            size += 1
        if (size == NAME_BYTES or names[row, size] == 0) and not _is_letter(_at(data, at + size, stop)):
            return row
    return -1


@njit(cache=True, nogil=True)
def _tag_end(data: Any, at: int, stop: int) -> int:
    """Return the end of the tag that opens at a "<", or 0 if it is none."""
    first = _at(data, at + 1, stop)
    if first == SLASH:
        first = _at(data, at + 2, stop)
    if not _is_letter(first):
        return 0
    for here in range(at + 1, min(stop, at + TAG_BYTES)):
        if data[here] == GREATER:
            return here + 1
        if data[here] == LESS:
            return 0
    return 0


@njit(cache=True, nogil=True)
def _hidden_end(data: Any, at: int, stop: int, gone: Any) -> int:
    """Return where a comment or a tag with its content ends that opens at a "<", or 0 if neither does.

    `gone` remembers of which tags there is no further end, so that a page is looked through once only.
    """
    if _at(data, at + 1, stop) == BANG:
        if _at(data, at + 2, stop) != DASH or _at(data, at + 3, stop) != DASH:
            return 0
        close = _find(data, at + 4, stop, DASH, DASH, GREATER)
        return close + 3 if close >= 0 else stop
    which = _which(data, at + 1, stop, RAW)
    end = _tag_end(data, at, stop) if which >= 0 else 0
    if end == 0 or data[end - 2] == SLASH or gone[which]:
        return end
    for close in range(end, stop - 2):
        if data[close] == LESS and data[close + 1] == SLASH and _which(data, close + 2, stop, RAW) == which:
            return max(close + 2, _tag_end(data, close, stop))
    gone[which] = True
    return end


@njit(cache=True, nogil=True)
def _close_block(blocks: Any, height: int, kind: int, at: int, ends: Any, begin: int) -> int:
    """Close the nearest open template or table; what opened in it and never closed is dropped."""
    while height > 0:
        height -= 1
        if blocks[height] % 2 == kind:
            ends[blocks[height] // 2 - begin] = at
            return height
    return height


@njit(cache=True, nogil=True)
def _matched(data: Any, begin: int, stop: int) -> Any:
    """Find where the templates, tables, links, comments and raw tags of the page from `begin` to `stop` end.

    Returns (stop - begin,) int64: where one opens, the position after its end; else 0.
    """
    ends = np.zeros(stop - begin, np.int64)
    gone = np.zeros(len(RAW), np.bool_)
    blocks, links = np.empty(64, np.int64), np.empty(64, np.int64)
    height, depth, templates = 0, 0, 0
    at, fresh = begin, True  # fresh: only spaces and colons on this line so far
    while at < stop:
        byte, after = data[at], _at(data, at + 1, stop)
        step = 1
        if byte == LESS:
            end = _hidden_end(data, at, stop, gone)
            ends[at - begin] = end
            step = max(1, end - at)
        elif byte == OPEN_BRACE and (after == OPEN_BRACE or (after == BAR and fresh)):
            blocks = grown(blocks, height)
            kind = TEMPLATE if after == OPEN_BRACE else TABLE
            blocks[height] = at * 2 + kind
            templates += kind == TEMPLATE
            height, step = height + 1, 2
        elif byte == CLOSE_BRACE and after == CLOSE_BRACE and templates:
            height = _close_block(blocks, height, TEMPLATE, at + 2, ends, begin)
            templates, step = templates - 1, 2
        elif byte == BAR and after == CLOSE_BRACE and fresh and height and blocks[height - 1] % 2 == TABLE:
            height = _close_block(blocks, height, TABLE, at + 2, ends, begin)
            step = 2
        elif byte == OPEN_BRACKET and after == OPEN_BRACKET:
            links = grown(links, depth)
            links[depth] = at
            depth, step = depth + 1, 2
        elif byte == CLOSE_BRACKET and after == CLOSE_BRACKET and depth:
            # A link does not reach out of the template that it opened in.
            whole = height == 0 or links[depth - 1] > blocks[height - 1] // 2
            depth -= whole
            step += whole
            if whole:
                ends[links[depth] - begin] = at + 2
        if byte == NEWLINE or (byte != SPACE and byte != COLON):
            fresh = byte == NEWLINE
        at += step
    return ends


@njit(cache=True, nogil=True)
def _link(data: Any, at: int, end: int, ends: Any, begin: int) -> int:
    """Return where the visible text of a link begins; its end if nothing of it is seen."""
    start = at + 2
    while _at(data, start, end) == SPACE:
        start += 1
    bar = start
    while bar < end - 2 and data[bar] != BAR:
        bar = max(bar + 1, ends[bar - begin])
    letters = start
    while letters < end - 2 and _is_letter(data[letters]):
        letters += 1
    if data[letters] == COLON:
        if _which(data, start, end, UNSEEN) >= 0:
            return end
        if bar >= end - 2 and 2 <= letters - start <= 3 and data[start] >= 97:
            return end  # the same article in another language
    return bar + 1 if bar < end - 2 else start


@njit(cache=True, nogil=True)
def _address_end(data: Any, at: int, stop: int) -> int:
    """Return the end of the web address that begins here, or 0."""
    size = 0
    if _at(data, at, stop) == LETTER_H:
        if _at(data, at + 1, stop) != LETTER_T or _at(data, at + 2, stop) != LETTER_T:
            return 0
        size = 5 if _at(data, at + 4, stop) == LETTER_S else 4  # https, http
        if _find(data, at + size, min(stop, at + size + 3), COLON, SLASH, SLASH) < 0:
            return 0
    elif _at(data, at + 1, stop) != SLASH or at == 0 or data[at - 1] != OPEN_BRACKET:
        return 0
    at += size
    while at < stop and data[at] > SPACE and data[at] != LESS and data[at] != GREATER:
        if data[at] in (OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE, BAR, DOUBLE_QUOTE):
            break
        at += 1
    return at


@njit(cache=True, nogil=True)
def _markup_end(data: Any, at: int, stop: int) -> int:
    """Return the end of quotes that make text bold or italic, or of a switch such as __NOTOC__, or 0."""
    byte, end = data[at], at
    while end < stop and data[end] == byte:
        end += 1
    if end - at < 2 or byte == QUOTE:
        return end if end - at > 1 else 0
    name = end
    while end < stop and 65 <= data[end] <= 90:
        end += 1
    if end > name and _at(data, end, stop) == UNDERSCORE and _at(data, end + 1, stop) == UNDERSCORE:
        return end + 2
    return 0


@njit(cache=True, nogil=True)
def _skip(data: Any, at: int, stop: int, ends: Any, begin: int) -> Any:
    """Return where to go on if what stands here is markup (0 if it is not), and the byte that replaces it."""
    byte, end = data[at], ends[at - begin]
    instead = 0
    if byte == LESS and end:
        instead = 0 if data[at + 1] == BANG else SPACE
    elif byte == LESS:
        end = _tag_end(data, at, stop)
        name = at + 2 if _at(data, at + 1, stop) == SLASH else at + 1
        instead = 0 if _which(data, name, stop, INLINE) >= 0 else NEWLINE
    elif byte == OPEN_BRACE:
        instead = SPACE
    elif byte == OPEN_BRACKET and end:
        end = _link(data, at, end, ends, begin)
    elif byte == CLOSE_BRACKET and _at(data, at + 1, stop) == CLOSE_BRACKET:
        end = at + 2
    elif byte in (QUOTE, UNDERSCORE):
        end = _markup_end(data, at, stop)
    elif byte in (LETTER_H, SLASH) and (at == begin or not _is_letter(data[at - 1])):
        end, instead = _address_end(data, at, stop), SPACE
    return end, instead


@njit(cache=True, nogil=True)
def _prose(data: Any, offsets: Any) -> Any:
    """Return what a reader would see of pages of wikitext, one paragraph a line, none empty.

    `data` is uint8, wikitext in UTF-8; `offsets` (N + 1,) int64, where each page begins.
    """
    out = np.empty(offsets[-1] - offsets[0] + len(offsets), np.uint8)
    size = 0
    for page in range(len(offsets) - 1):
        begin, stop = offsets[page], offsets[page + 1]
        ends = _matched(data, begin, stop)
        at = begin
        while at < stop:
            end, byte = _skip(data, at, stop, ends, begin)
            if end == 0:
                end, byte = at + 1, data[at]
            at = end
            if byte == NEWLINE and (size == 0 or out[size - 1] == NEWLINE):
                continue
            if byte:
                out[size] = byte
                size += 1
        if size and out[size - 1] != NEWLINE:
            out[size] = NEWLINE
            size += 1
    return out[:size]
