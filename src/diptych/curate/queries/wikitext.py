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

NEWLINE, QUOTE, LESS, GREATER, SLASH, COLON, BAR, BANG, UNDERSCORE, DOUBLE_QUOTE = b"\n'<>/:|!_\""
OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET, LETTER_H, LETTER_S = b"{}[]hs"
COMMENT, COMMENT_END, HTTP, SCHEME_END = (
    np.frombuffer(text, np.uint8) for text in (b"<!--", b"-->", b"http", b"://")
)
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


# All below take the bytes of one page, wikitext in UTF-8, as uint8.


@njit(cache=True, nogil=True)
def _at(page: Any, at: int) -> int:
    return page[at] if at < len(page) else 0


@njit(cache=True, nogil=True)
def _stands(page: Any, at: int, text: Any) -> bool:
    for place in range(len(text)):  # noqa: SIM110 — numba compiles no generators inside all()
        if _at(page, at + place) != text[place]:
            return False
    return True


@njit(cache=True, nogil=True)
def _lower(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:
    return 97 <= _lower(byte) <= 122


@njit(cache=True, nogil=True)
def _which(page: Any, at: int, names: Any) -> int:
    """Return which of the names stands here, whatever its case, or -1."""
    for row in range(len(names)):
        size = 0
        while size < NAME_BYTES and names[row, size] and _lower(_at(page, at + size)) == names[row, size]:
            size += 1
        if (size == NAME_BYTES or names[row, size] == 0) and not _is_letter(_at(page, at + size)):
            return row
    return -1


@njit(cache=True, nogil=True)
def _tag_end(page: Any, at: int) -> int:
    """Return the end of the tag that opens at a "<", or 0 if it is none."""
    name = at + 2 if _at(page, at + 1) == SLASH else at + 1
    if not _is_letter(_at(page, name)):
        return 0
    for here in range(at + 1, min(len(page), at + TAG_BYTES)):
        if page[here] == GREATER:
            return here + 1
        if page[here] == LESS:
            return 0
    return 0


@njit(cache=True, nogil=True)
def _hidden_end(page: Any, at: int, gone: Any) -> int:
    """Return where a comment or a tag with its content ends that opens at a "<", or 0 if neither does.

    `gone` remembers of which tags there is no further end, so that a page is looked through once only.
    """
    if _stands(page, at, COMMENT):
        for close in range(at + len(COMMENT), len(page)):
            if _stands(page, close, COMMENT_END):
                return close + len(COMMENT_END)
        return len(page)
    which = _which(page, at + 1, RAW)
    end = _tag_end(page, at) if which >= 0 else 0
    if end == 0 or page[end - 2] == SLASH or gone[which]:
        return end
    for close in range(end, len(page) - 2):
        if page[close] == LESS and page[close + 1] == SLASH and _which(page, close + 2, RAW) == which:
            return max(close + 2, _tag_end(page, close))
    gone[which] = True
    return end


@njit(cache=True, nogil=True)
def _close_block(blocks: Any, height: int, kind: int, at: int, ends: Any) -> int:
    """Close the nearest open template or table; what opened in it and never closed is dropped."""
    while height > 0:
        height -= 1
        if blocks[height] % 2 == kind:
            ends[blocks[height] // 2] = at
            return height
    return height


@njit(cache=True, nogil=True)
def _matched(page: Any) -> Any:
    """Find where the templates, tables, links, comments and raw tags of a page end.

    Returns (bytes,) int64: where one opens, the position after its end; else 0.
    """
    ends, gone = np.zeros(len(page), np.int64), np.zeros(len(RAW), np.bool_)
    blocks, links = np.empty(64, np.int64), np.empty(64, np.int64)
    height, depth, templates = 0, 0, 0
    at, fresh = 0, True  # fresh: only spaces and colons on this line so far
    while at < len(page):
        byte, after = page[at], _at(page, at + 1)
        step = 1
        if byte == LESS:
            ends[at] = _hidden_end(page, at, gone)
            step = max(1, ends[at] - at)
        elif byte == OPEN_BRACE and (after == OPEN_BRACE or (after == BAR and fresh)):
            blocks = grown(blocks, height)
            kind = TEMPLATE if after == OPEN_BRACE else TABLE
            blocks[height] = at * 2 + kind
            templates += kind == TEMPLATE
            height, step = height + 1, 2
        elif byte == CLOSE_BRACE and after == CLOSE_BRACE and templates:
            height = _close_block(blocks, height, TEMPLATE, at + 2, ends)
            templates, step = templates - 1, 2
        elif byte == BAR and after == CLOSE_BRACE and fresh and height and blocks[height - 1] % 2 == TABLE:
            height = _close_block(blocks, height, TABLE, at + 2, ends)
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
                ends[links[depth]] = at + 2
        if byte == NEWLINE or (byte != SPACE and byte != COLON):
            fresh = byte == NEWLINE
        at += step
    return ends


@njit(cache=True, nogil=True)
def _link(page: Any, at: int, end: int, ends: Any) -> int:
    """Return where the visible text of a link begins; its end if nothing of it is seen."""
    start = at + 2
    while page[start] == SPACE:
        start += 1
    bar = letters = start
    while bar < end - 2 and page[bar] != BAR:
        bar = max(bar + 1, ends[bar])
    while letters < end - 2 and _is_letter(page[letters]):
        letters += 1
    if page[letters] == COLON:
        # The second: the same article in another language.
        is_code = bar >= end - 2 and 2 <= letters - start <= 3 and page[start] >= 97
        if is_code or _which(page, start, UNSEEN) >= 0:
            return end
    return bar + 1 if bar < end - 2 else start


@njit(cache=True, nogil=True)
def _address_end(page: Any, at: int) -> int:
    """Return the end of the web address that begins here, or 0."""
    if page[at] == LETTER_H:
        size = 5 if _at(page, at + 4) == LETTER_S else 4  # https, http
        if not _stands(page, at, HTTP) or not _stands(page, at + size, SCHEME_END):
            return 0
        at += size
    elif _at(page, at + 1) != SLASH or at == 0 or page[at - 1] != OPEN_BRACKET:
        return 0
    while at < len(page) and page[at] > SPACE and page[at] != LESS and page[at] != GREATER:
        if page[at] in (OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE, BAR, DOUBLE_QUOTE):
            break
        at += 1
    return at


@njit(cache=True, nogil=True)
def _markup_end(page: Any, at: int) -> int:
    """Return the end of quotes that make text bold or italic, or of a switch such as __NOTOC__, or 0."""
    byte, end = page[at], at
    while _at(page, end) == byte:
        end += 1
    if end - at < 2 or byte == QUOTE:
        return end if end - at > 1 else 0
    name = end
    while 65 <= _at(page, end) <= 90:
        end += 1
    is_switch = end > name and _at(page, end) == UNDERSCORE and _at(page, end + 1) == UNDERSCORE
    return end + 2 if is_switch else 0


@njit(cache=True, nogil=True)
def _skip(page: Any, at: int, ends: Any) -> Any:
    """Return where to go on if what stands here is markup (0 if it is not), and the byte that replaces it."""
    byte, end, instead = page[at], ends[at], 0
    if byte == LESS and end:
        instead = 0 if page[at + 1] == BANG else SPACE
    elif byte == LESS:
        end = _tag_end(page, at)
        name = at + 2 if _at(page, at + 1) == SLASH else at + 1
        instead = 0 if _which(page, name, INLINE) >= 0 else NEWLINE
    elif byte == OPEN_BRACE:
        instead = SPACE
    elif byte == OPEN_BRACKET and end:
        end = _link(page, at, end, ends)
    elif byte == CLOSE_BRACKET and _at(page, at + 1) == CLOSE_BRACKET:
        end = at + 2
    elif byte in (QUOTE, UNDERSCORE):
        end = _markup_end(page, at)
    elif byte in (LETTER_H, SLASH) and (at == 0 or not _is_letter(page[at - 1])):
        end, instead = _address_end(page, at), SPACE
    return end, instead


@njit(cache=True, nogil=True)
def _prose(data: Any, offsets: Any) -> Any:
    """Return what a reader would see of pages of wikitext, one paragraph a line, none empty.

    `data` is uint8, wikitext in UTF-8; `offsets` (N + 1,) int64, where each page begins.
    """
    out = np.empty(offsets[-1] - offsets[0] + len(offsets), np.uint8)
    size = 0
    for row in range(len(offsets) - 1):
        page, at = data[offsets[row] : offsets[row + 1]], 0
        ends = _matched(page)
        while at < len(page):
            end, byte = _skip(page, at, ends)
            if end == 0:
                end, byte = at + 1, page[at]
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
