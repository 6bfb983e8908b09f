"""The articles of a MediaWiki XML export: pages of namespace 0 that are no redirects, as wikitext.

Every `<page>` is cut out of the stream and parsed by itself with expat. A page can declare no document type,
so no entity but XML's own five exists and none can grow; the "<" of a text is always written `&lt;`, so the
bytes `<page>` are always the tag. A page belongs to the part of the file in which its tag begins.

Reads: bytes of an export. Source: mediawiki.org, "Help:Export" (schema export-0.11).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from diptych.core.errors import DataError, UsageError

OPENING, CLOSING = b"<page>", b"</page>"
ENDING = b"</mediawiki>"
NAMESPACE = re.compile(rb"<ns>\s*(-?\d+)\s*</ns>")
REDIRECT, REVISION = b"<redirect", b"<revision>"
MAX_PAGE_BYTES = 64 << 20
"""MediaWiki refuses pages above 2 MiB; more is a file with all revisions, or no export at all."""
ATOM_BYTES = 1 << 20  # expat's buffer: a text arrives in few pieces


def articles(blocks: Iterator[tuple[bytes, bool]], path: Path) -> Iterator[str]:
    """Yield the wikitext of the articles that begin in a part.

    Args:
        blocks: bytes, and whether they are of the part; the others complete its last page.
        path: for messages.

    Raises:
        DataError: the export is damaged or cut off.
        UsageError: it is so old that its pages name no namespace.
    """
    for page in _pages(blocks, path):
        head = page[: page.find(REVISION)]
        namespace = NAMESPACE.search(head)
        if namespace is None:
            raise UsageError(
                "a page of the dump names no namespace",
                where=f"{path}, page beginning {page[:100]!r}",
                expected="<ns> in every page, as exports have had since 2012 (schema 0.6)",
                fix="export the wiki again, or give its texts as a plain file, one a line",
            )
        if namespace[1] == b"0" and REDIRECT not in head:
            yield _text(page, path)


def _pages(blocks: Iterator[tuple[bytes, bool]], path: Path) -> Iterator[bytes]:
    """Cut the stream into pages."""
    held, limit, seen, ended = b"", -1, 0, False
    for block, inside in blocks:
        if limit < 0 and not inside:
            limit = len(held)
        held += block
        seen, done = seen + len(block), 0
        for start, end in _whole_pages(held, limit):
            yield held[start:end]
            done = end
        start = held.find(OPENING, done)
        known = start if start >= 0 else max(done, len(held) - len(ENDING) + 1)
        if 0 <= limit <= known:
            return
        if len(held) - known > MAX_PAGE_BYTES:
            raise DataError(
                "a page of the dump is too large",
                where=f"{path}, after {held[known : known + 100]!r}",
                expected=f"at most {MAX_PAGE_BYTES:,} bytes",
                fix="use the file of the articles' current revisions, pages-articles",
            )
        ended = ended or ENDING in held[done:]
        held, limit = held[known:], limit - known if limit >= 0 else -1
    # The last part of a file may begin inside the very last tag.
    ended = ended or (seen < 2 * len(ENDING) and ENDING.endswith(held.strip()))
    if OPENING in held or not ended:
        raise DataError(
            "the dump is cut off",
            where=path,
            found=f"…{held[-60:]!r}",
            expected=f"{ENDING.decode()} at its end",
            fix="compare its checksum with the publisher's, and download it again",
        )


def _whole_pages(held: bytes, limit: int) -> Iterator[tuple[int, int]]:
    """Find the pages that are complete and begin before the limit, if there is one."""
    end = 0
    while True:
        start = held.find(OPENING, end)
        end = held.find(CLOSING, start) + len(CLOSING) if start >= 0 else 0
        if end < len(CLOSING) or 0 <= limit <= start:
            return
        yield start, end


def _text(page: bytes, path: Path) -> str:
    """Return the text of a page's last revision."""
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text, parser.buffer_size = True, ATOM_BYTES
    inside, pieces = False, list[str]()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal inside
        del attributes
        inside = name == "text"
        if inside:
            pieces.clear()

    def end(name: str) -> None:
        nonlocal inside
        inside = inside and name != "text"

    def characters(data: str) -> None:
        if inside:
            pieces.append(data)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(page, True)
    except expat.ExpatError as error:
        raise DataError(
            "a page of the dump is no XML",
            where=f"{path}, page beginning {page[:100]!r}",
            found=str(error),
            fix="compare its checksum with the publisher's, and download it again",
        ) from error
    return "".join(pieces)
