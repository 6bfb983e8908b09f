"""Pairs from WAT and WARC files: what a page says about its images, whatever shape page and file are in."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

import pytest
from tests.curate.crawl_files import WebPage, member, record, warc_record, wat_record, write_warc, write_wat

from diptych.core.errors import Reason, SettingsError, UsageError
from diptych.core.records import Counts
from diptych.curate.candidates.crawl import (
    ROW_BYTES,
    Candidate,
    CrawlSettings,
    candidate_table,
    pair_key,
    pairs_of_crawl,
    resolved,
)
from diptych.curate.candidates.warc import MAX_RECORD_BYTES, Record, read_records
from diptych.curate.columns import CANDIDATES
from diptych.data.sources.rows import drop

PETS = [("rex.jpg", "A brown  dog"), ("/i/cat.png", "A cat")]
PAGES = [
    WebPage("https://shop.example/dogs/list.html", PETS, title="Pets"),
    WebPage("http://blog.example/", [("//cdn.example/sea.jpg", "The sea at night")], license="/cc-by"),
    WebPage("https://base.example/x/y", [("z.jpg", "Zebra &amp; foal")], base="https://other.example/deep/"),
]
EXPECTED = [
    ("https://shop.example/dogs/rex.jpg", "A brown dog", "https://shop.example/dogs/list.html", None),
    ("https://shop.example/i/cat.png", "A cat", "https://shop.example/dogs/list.html", None),
    ("http://cdn.example/sea.jpg", "The sea at night", "http://blog.example/", "http://blog.example/cc-by"),
    ("https://other.example/deep/z.jpg", "Zebra & foal", "https://base.example/x/y", None),
]


def read(path: Path, *captions: Any) -> tuple[list[Candidate], Counts]:
    """Read the pairs of a file, those that share a key too, and count the rest."""
    counts, rows = Counts(), pairs_of_crawl(path, CrawlSettings(captions) if captions else CrawlSettings())
    pairs = [row for row in rows if isinstance(row, Candidate) or drop(counts, row, row.where)]
    return cast(list[Candidate], pairs), counts


def read_html(
    tmp_path: Path, html: str | bytes, *captions: str, **more: Any
) -> tuple[list[Candidate], Counts]:
    body = html.encode() if isinstance(html, str) else html
    page = WebPage("https://a.example/dir/p.html", html=body, **more)
    return read(write_warc(tmp_path / "p.warc.gz", [page]), *captions)


@pytest.mark.parametrize("name", ["a.warc.wat.gz", "a.warc.gz", "a.warc", "whole.warc.gz"])
def test_crawl_files_give_the_pairs_of_their_pages(name: str, tmp_path: Path) -> None:
    """WAT, WARC, WARC without compression, and one compressed as a whole."""
    if ".wat" in name:
        path = write_wat(tmp_path / name, PAGES)
    else:
        # The pages of a WARC file escape for themselves.
        pages = [*PAGES[:2], WebPage(PAGES[2].url, [("z.jpg", "Zebra & foal")], base=PAGES[2].base)]
        path = write_warc(tmp_path / name, pages, plain=name in ("a.warc", "whole.warc.gz"))
        if name == "whole.warc.gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    rows, counts = read(path)
    assert [(row.url, row.caption, row.page, row.license) for row in rows] == EXPECTED
    assert counts.dropped == {}
    assert json.loads(rows[0].fields or "") == {"caption_from": "alt"}


def test_a_pair_has_the_same_key_wherever_it_is_found(tmp_path: Path) -> None:
    here, there = (WebPage(f"https://{n}.example/", [("https://c.example/x.jpg", "X")]) for n in "ab")
    rows, _ = read(write_wat(tmp_path / "a.warc.wat.gz", [here, there]))
    assert rows[0].key == rows[1].key == pair_key("https://c.example/x.jpg", "X")
    assert rows[0].key != pair_key("https://c.example/x.jpg", "Y")


def test_a_key_tells_where_the_image_ends_and_the_caption_begins() -> None:
    for middle in ("\\n", "\n", "\0", " ", "25 ", ""):
        whole = f"https://c.example/x.jpg{middle}a dog"
        keys = {pair_key(whole[:end], whole[end:]) for end in range(len(whole))}
        keys |= {pair_key(whole[:end].encode() + b"\xff", whole[end:]) for end in range(len(whole))}
        assert len(keys) == 2 * len(whole)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"src": "a.jpg"}, Reason.MISSING_CAPTION), ({"src": "a.jpg", "alt": " \n "}, Reason.EMPTY_CAPTION),
        ({"src": "a.jpg", "alt": "x" * 20_000}, Reason.CAPTION_TOO_LONG),
        ({"src": "a.jpg", "alt": "a\0b"}, Reason.CAPTION_NOT_TEXT),
        ({"src": "a.jpg", "alt": "caf\ufffd"}, Reason.CAPTION_NOT_TEXT),
        ({"src": "", "alt": "A dog"}, Reason.MISSING_IMAGE),
        ({"src": "data:image/gif;base64,R0lGODlhAQABAAAAACw=", "alt": "A dog"}, Reason.BAD_ADDRESS),
        ({"src": "ftp://a.example/x.jpg", "alt": "A dog"}, Reason.BAD_ADDRESS),
        ({"src": "javascript:void(0)", "alt": "A dog"}, Reason.BAD_ADDRESS),
        ({"src": "http://[::1/x.jpg", "alt": "A dog"}, Reason.BAD_ADDRESS),
        ({"src": "http:///x.jpg", "alt": "A dog"}, Reason.BAD_ADDRESS),
        ({"src": "https:\\\\a.example\\x.jpg", "alt": "A dog"}, Reason.BAD_ADDRESS),
        ({"src": "x" * 5000, "alt": "A dog"}, Reason.BAD_ADDRESS)
    ]
)  # fmt: skip
def test_what_cannot_be_a_pair_is_counted_by_its_reason(
    image: dict[str, str], reason: Reason, tmp_path: Path
) -> None:
    page = WebPage("https://a.example/p.html", [image, ("good.jpg", "A good one")])
    for rows, counts in (
        read(write_wat(tmp_path / "a.warc.wat.gz", [page])),
        read(write_warc(tmp_path / "a.warc.gz", [page])),
    ):
        assert [row.caption for row in rows] == ["A good one"]
        assert counts.dropped == {reason: 1}


def test_captions_come_from_the_first_place_that_has_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no place for captions"):
        CrawlSettings(captions=())
    html = """<title>The page</title><a href=/x title="The link"><figure>
      <img src=1.jpg alt="" title="The title">
      <figcaption>The <b>fig</b>ure<br>caption</figcaption></figure></a>
      <a href=/y><img src=2.jpg> Text of the <i>link</i></a><img src=3.jpg>"""
    rows, _ = read_html(tmp_path, html, "alt", "figcaption", "link", "page")
    captions = ["The figure caption", "Text of the link", "The page"]
    assert [row.caption for row in rows] == captions
    assert [json.loads(row.fields or "")["caption_from"] for row in rows] == ["figcaption", "link", "page"]
    rows, counts = read_html(tmp_path, html)
    assert [row.caption for row in rows] == ["The title"]
    assert counts.dropped == {Reason.MISSING_CAPTION: 2}


def test_addresses_are_joined_as_the_standard_library_does() -> None:
    rng = random.Random(2)
    bases = ("https://a.example", "http://b.example:80/x/y.html?q", "https://u@c.example/", "https://d/#f")
    parts = ("/", "a", ".jpg", "..", ".", "%20", "?x=1", "b-c", "//e.example", ";v")
    for _ in range(5000):
        base, path = rng.choice(bases), "".join(rng.choices(parts, k=4))
        joined = urljoin(base, path)
        assert resolved(base, path) == (joined if joined.startswith("http") else None), (base, path)


@pytest.mark.parametrize(
    ("caption", "encoding", "header", "meta"),
    [
        ("Café 犬 Собака", "utf-8", "; charset=utf-8", ""), ("Café 犬 Собака", "utf-8", "", ""),
        ("Собака", "windows-1251", "; charset=windows-1251", ""), ("Café 犬", "utf-16", "", ""),
        ("犬", "shift_jis", "", "<meta charset=Shift_JIS>"),
        ("一只狗", "gbk", "", '<meta http-equiv="Content-Type" content="text/html; charset=gb2312">'),
        ("“Café” dog", "cp1252", "; charset=ISO-8859-1", ""), ("“Café” dog", "cp1252", "", ""),
        ("개", "euc-kr", "; charset=no-such-thing", "<meta charset='euc-kr'>"),
        ("Café 犬 Собака", "utf-8", "; charset=hex", "<meta charset=utf-7>")
    ]
)  # fmt: skip
def test_pages_are_decoded_in_their_encoding(
    caption: str, encoding: str, header: str, meta: str, tmp_path: Path
) -> None:
    html = f'<html><head>{meta}</head><img src=a.jpg alt="{caption}">'
    rows, _ = read_html(tmp_path, html.encode(encoding), headers={"Content-Type": f"text/html{header}"})
    assert [row.caption for row in rows] == [caption]


def test_wrong_bytes_spoil_their_caption_only(tmp_path: Path) -> None:
    """A page that breaks off in a letter is UTF-8 all the same."""
    rows, _ = read_html(tmp_path, '<img src=a.jpg alt="Ein großer Hund">é'.encode()[:-1])
    assert rows[0].caption == "Ein großer Hund"
    headers = {"Content-Type": "text/html; charset=utf-8"}
    rows, counts = read_html(tmp_path, b"<img src=a.jpg alt='caf\xe9'>", headers=headers)
    assert (rows, counts.dropped) == ([], {Reason.CAPTION_NOT_TEXT: 1})


def test_only_pages_that_were_served_are_read(tmp_path: Path) -> None:
    html = "<img src=a.jpg alt='A dog'>"
    for kind, status, count in (("text/html", "404 Not Found", 0), ("application/pdf", "200 OK", 0),
                                ("application/xhtml+xml; charset=utf-8", "200 OK", 1)):  # fmt: skip
        rows, _ = read_html(tmp_path, html, status=status, headers={"Content-Type": kind})
        assert len(rows) == count
    rows, counts = read_html(tmp_path, bytes(range(256)), headers={"Content-Encoding": "br"})
    assert (rows, counts.dropped) == ([], {Reason.BAD_RECORD: 1})
    assert "'br'" in counts.examples[Reason.BAD_RECORD][0]


def damaged(kind: str, plain: bytes, rng: random.Random) -> bytes:
    """Return the member of a record, damaged in one way."""
    whole = member(plain)
    place = rng.randrange(18, len(whole) - 8)
    ways = {
        "bit": whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :],
        "checksum": whole[:-8] + bytes(4) + whole[-4:],
        "cut": whole[: len(whole) // 2],
        "magic": b"\0\0\0" + whole[3:],
        "short": member(plain[: len(plain) // 2]),  # whole as a member, but not as a record
    }
    return ways[kind]


@pytest.mark.parametrize("kind", ["bit", "checksum", "cut", "magic", "short"])
def test_a_damaged_member_costs_its_own_record_only(kind: str, tmp_path: Path) -> None:
    rng, path = random.Random(5), tmp_path / "a.warc.wat.gz"
    for number in range(20):
        parts = [wat_record(WebPage(f"https://{n}.example/", [("i.jpg", f"Caption {n}")])) for n in range(9)]
        spoilt = {number % 9, (number * 5 + 2) % 9} if kind != "cut" else {number % 9}
        members = [damaged(kind, part, rng) if n in spoilt else member(part) for n, part in enumerate(parts)]
        path.write_bytes(b"".join(members))
        rows, counts = read(path)
        assert [row.caption for row in rows] == [f"Caption {n}" for n in range(9) if n not in spoilt]
        # Of two neighbors the second may be past recognition: then it is a part of the first.
        least = 1 if max(spoilt) - min(spoilt) == 1 else len(spoilt)
        assert least <= counts.dropped[Reason.BAD_RECORD] == counts.dropped.total() <= len(spoilt)


def test_a_damaged_plain_record_costs_itself_only(tmp_path: Path) -> None:
    parts = [warc_record(WebPage(f"https://{n}.example/", [("i.jpg", f"Caption {n}")])) for n in range(5)]
    parts[2] = parts[2].replace(b"Content-Length", b"Content-Girth")
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(parts)[:-40])
    rows, counts = read(path)
    assert [row.caption for row in rows] == ["Caption 0", "Caption 1", "Caption 3"]
    assert counts.dropped == {Reason.BAD_RECORD: 2}


def test_a_record_larger_than_memory_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.wat.gz"
    huge = record("metadata", "https://a.example/", bytes(MAX_RECORD_BYTES + 1), "application/json")
    path.write_bytes(member(huge) + member(wat_record(PAGES[0])))
    rows, counts = read(path)
    assert len(rows) == 2
    assert counts.dropped == {Reason.BAD_RECORD: 1}


def test_arc_files_are_refused_by_name(tmp_path: Path) -> None:
    """The format before WARC: each of its records was counted as a damaged one."""
    head = b"filedesc://a.arc 0.0.0.0 20040101000000 text/plain 69\n1 0 Alexa Internet\n"
    for name in ("a.arc", "a.arc.gz", "b.warc.gz"):
        (tmp_path / name).write_bytes(gzip.compress(head) if name.endswith(".gz") else head)
        with pytest.raises(UsageError, match=r"ARC(.|\n)*warcio recompress"):
            read(tmp_path / name)


def test_no_mutation_of_a_file_stops_its_reading(tmp_path: Path) -> None:
    """Bits flipped, pieces cut out, doubled or zeroed: what is read is a part of what was there."""
    rng, path = random.Random(11), tmp_path / "a.warc.gz"
    whole = write_warc(path, PAGES * 3).read_bytes()
    known = {record.body for record in read_records(path) if isinstance(record, Record)}
    for _ in range(300):
        place, length = rng.randrange(len(whole)), rng.choice((1, 4, 50, 400))
        start, piece, end = whole[:place], whole[place : place + length], whole[place + length :]
        flipped = bytes([piece[0] ^ 1 << rng.randrange(8)]) + piece[1:]
        data = start + rng.choice((flipped, b"", piece + piece, bytes(len(piece)))) + end
        path.write_bytes(data)
        records = list(read_records(path))
        assert {record.body for record in records if isinstance(record, Record)} <= known
        assert len(records) >= 17


def test_every_bad_row_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 bad rows of every kind among 500 good ones: in = out + dropped, each under its reason."""
    url = "https://q.example/"
    # A lone surrogate is how JSON spells what is no text.
    spoilt = wat_record(WebPage(url, [("a.jpg", "SPOIL")])).split(b"\r\n\r\n")[1]
    faults = [
        (WebPage(url, [{"src": "a.jpg"}]), Reason.MISSING_CAPTION),
        (WebPage(url, [{"src": "a.jpg", "alt": "x" * 2**15}]), Reason.CAPTION_TOO_LONG),
        (WebPage(url, [{"src": "a.jpg", "alt": "nul \0"}]), Reason.CAPTION_NOT_TEXT),
        (WebPage(url, [{"src": "data:,x", "alt": "A dog"}]), Reason.BAD_ADDRESS),
        (WebPage(url, body=spoilt.replace(b"SPOIL", b"\\ud800")), Reason.CAPTION_NOT_TEXT),
        (WebPage(url, body=b'{"path":"IMG@/src", "url": broken'), Reason.BAD_RECORD),
    ]
    rng = random.Random(3)
    drawn = [rng.choice(faults) for _ in range(1000)]
    good = [WebPage(f"https://p{number}.example/", [("i.jpg", f"Caption {number}")]) for number in range(500)]
    pages = [page for n, page in enumerate(good) for page in (page, drawn[2 * n][0], drawn[2 * n + 1][0])]
    counts = Counts()
    rows = pairs_of_crawl(write_wat(tmp_path / "a.warc.wat.gz", pages), CrawlSettings())
    monkeypatch.setattr("diptych.curate.candidates.crawl.MAX_TABLE_BYTES", 200 * ROW_BYTES)
    table = candidate_table(rows, counts)
    assert [len(chunk) for chunk in table["caption"].chunks] == [200, 200, 100]
    assert table.schema.equals(CANDIDATES)
    assert counts.dropped == Counter(reason for _, reason in drawn)
    assert (counts.seen, counts.kept) == (1500, 500)
    counts.check(1.0)


def test_json_of_any_shape_is_no_crash(tmp_path: Path) -> None:
    bodies = [b'["IMG@/src"]', b'{"Envelope": "IMG@/src"}', b'{"a":' * 100_000 + b'"IMG@/src"', b'7 "IMG@/']
    links = '"Links": ["IMG@/src", {"path": 7}, {"path": "IMG@/src", "url": 5, "alt": "A dog"}, null]'
    html = '{"Head": [], ' + links + "}"
    bodies.append(
        b'{"Envelope": {"WARC-Header-Metadata": {"WARC-Target-URI": 3}, "Payload-Metadata":'
        b' {"HTTP-Response-Metadata": {"HTML-Metadata": ' + html.encode() + b"}}}}"
    )
    pages = [WebPage("https://a.example/", body=body) for body in bodies]
    rows, counts = read(write_wat(tmp_path / "a.warc.wat.gz", pages))
    assert rows == []
    assert counts.dropped == {Reason.BAD_RECORD: 2, Reason.MISSING_IMAGE: 1}
