"""The text of a page, in whatever codings its body came over the wire and into the archive."""

import gzip
import random
import zlib

import pyarrow as pa
import pytest

from diptych.curate.candidates.warc import MAX_RECORD_BYTES, http_response

HTML = b'<img src="a.jpg" alt="A dog">'


def body_of(body: bytes, name: str = "", value: str = "") -> bytes:
    header = f"{name}: {value}\r\n" if name else ""
    return http_response(f"HTTP/1.1 200 OK\r\n{header}\r\n".encode() + body).body


def coded(data: bytes, *names: str) -> bytes:
    """Apply content codings in their order."""
    for name in names:
        if name == "raw":
            packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            data = packer.compress(data) + packer.flush()
        elif name in ("br", "zstd"):
            data = pa.Codec("brotli" if name == "br" else name).compress(data, asbytes=True)
        else:
            data = gzip.compress(data) if name == "gzip" else zlib.compress(data)
    return data


def test_chunks_are_joined_unless_the_crawler_did() -> None:
    chunked = b"5\r\n" + HTML[:5] + b"\r\n%x;x=1\r\n" % len(HTML[5:]) + HTML[5:] + b"\r\n0\r\n\r\n"
    for body in (chunked, HTML):
        assert body_of(body, "Transfer-Encoding", "chunked") == HTML


@pytest.mark.parametrize("size", [29, 30_000])
@pytest.mark.parametrize(
    ("applied", "header"),
    [
        (["gzip"], "gzip"), (["gzip"], "x-gzip"), (["br"], "br"), (["zstd"], "zstd"),
        (["deflate"], "deflate"), (["raw"], "deflate"),  # as some servers understand the name
        (["deflate", "gzip"], "deflate, gzip"), (["gzip", "br"], "gzip, br"),
        (["gzip", "gzip"], "gzip"), (["br", "gzip"], "BR"),  # packed once more than the header says
        (["gzip"], "identity"),
        ([], "gzip"), ([], "br"), ([], "deflate"), ([], "UTF-8"),  # undone by the crawler
    ]
)  # fmt: skip
def test_every_coding_is_undone(applied: list[str], header: str, size: int) -> None:
    html = HTML.ljust(size)
    assert body_of(coded(html, *applied), "Content-Encoding", header) == html


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_body_is_read_as_far_as_the_crawler_kept_it_and_never_without_end(coding: str) -> None:
    html = HTML + random.Random(0).randbytes(400_000).hex().encode()
    packed = coded(html, coding)
    body = body_of(packed[: len(packed) // 2], "Content-Encoding", coding)
    assert len(body) > len(html) // 4 and html.startswith(body)
    with pytest.raises(ValueError, match="inflates to more"):
        body_of(coded(bytes(MAX_RECORD_BYTES + 1), coding), "Content-Encoding", coding)


def test_what_a_page_is_packed_in_without_a_header_is_undone() -> None:
    assert body_of(coded(HTML, "gzip")) == HTML
    wide = HTML.decode().encode("utf-16")
    assert body_of(wide, "Content-Encoding", "gzip") == wide


@pytest.mark.parametrize("coding", ["br", "deflate", "compress", "gzip", "x" * 999])
def test_a_body_in_no_known_coding_is_refused(coding: str) -> None:
    with pytest.raises(ValueError, match=f"no text, in the content coding '{coding[:40]}'"):
        body_of(bytes(range(256)) * 4, "Content-Encoding", coding)
