"""Text files that somebody else wrote: UTF-8, with or without a byte order mark."""

import codecs
from pathlib import Path

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path) -> str:
    """Read a text file; see `decode_text`."""
    return decode_text(Path(path).read_bytes())


def decode_text(data: bytes) -> str:
    """Decode UTF-8; a byte order mark at the start, as Windows programs write it, is no part of the text.

    >>> decode_text(b"\\xef\\xbb\\xbftitle")
    'title'
    """
    if data.startswith(UTF16):
        raise UnicodeDecodeError("utf-8", data[:2], 0, 2, "this is UTF-16; save it as UTF-8")
    return data.decode("utf-8-sig")
