"""Which encoding the bytes of a page are in.

Reads: bytes of a page. Writes: nothing.
Source: WHATWG HTML Standard, section 13.2.3 (order of the sources), and Encoding Standard, section 4.2
(labels). We differ where nothing is declared: what is UTF-8 throughout is taken for UTF-8.
"""

import codecs
import re

# By Python's name; labels stand for what browsers read them as. Anything else (UTF-7, escapes) is refused.
_SAME = ("utf-8", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "koi8-r", "koi8-u", "cp866", "mac-roman")
_SAME_ISO = tuple(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16))
_ENCODINGS = {name: name for name in (*_SAME, *_SAME_ISO, *(f"cp{page}" for page in range(1250, 1259)))} | {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
    "tis-620": "cp874", "cp874": "cp874", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs",
    "shift_jis": "cp932", "cp932": "cp932", "euc_kr": "cp949", "cp949": "cp949",
    "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8",  # nobody could have read the label
}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w:.\-]{1,40})", re.IGNORECASE)
_META = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w:.\-]{1,40})", re.IGNORECASE)
_META_WITHIN = 4096  # bytes; the standard says 1,024, pages put it later


def decoded(data: bytes, content_type: str = "") -> str:
    """Decode a page by its byte order mark, its HTTP header or its `meta`, else as UTF-8 or Windows-1252.

    Args:
        data: bytes of the page.
        content_type: the HTTP header.

    Returns:
        The text; U+FFFD stands for bytes that are wrong in the encoding.

    >>> decoded(b"caf\\xe9", "text/html; charset=ISO-8859-1"), decoded("café".encode()), decoded(b"caf\\xe9")
    ('café', 'café', 'café')
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    header, meta = _CHARSET.search(content_type), _META.search(data, 0, _META_WITHIN)
    for label in (header[1] if header else "", meta[1].decode("ascii", "replace") if meta else ""):
        if name := _encoding(label):
            return data.decode(name, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A page that was cut off in the middle of a letter is UTF-8 all the same.
        cut = error.end == len(data) and error.reason == "unexpected end of data"
        if cut and not data[: error.start].isascii():
            return data.decode("utf-8", "replace")
        return data.decode("cp1252", "replace")


def _encoding(label: str) -> str:
    try:
        return _ENCODINGS.get(codecs.lookup(label).name, "") if label.strip() else ""
    except (LookupError, ValueError):
        return ""
