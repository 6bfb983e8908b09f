"""The tar reader agrees with tarfile on honest archives and refuses a corpus of hostile ones."""

import io
import resource
import struct
import tarfile
from contextlib import suppress

import pytest

from diptych.core.errors import DataError, DiptychError, IntegrityError
from diptych.data.shards import tar
from diptych.data.shards.tar import Member, read_members

NAMES = ["a.jpg", "folder/b.txt", "x" * 100, "y" * 101, "d/" + "z" * 180 + ".json", "größe.txt", "n" * 3000]


def _members(data: bytes) -> list[Member]:
    return list(read_members(io.BytesIO(data)))


def _block(
    name: bytes = b"a.jpg",
    size: bytes = b"00000000000\0",
    flag: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """A header built by the standard's table, independent of the writer under test."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = size.ljust(12, b"\0")
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[257:265] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _octal(size: int) -> bytes:
    return b"%011o\0" % size


def _pax(records: bytes, flag: bytes = b"x") -> bytes:
    return _block(b"pax", _octal(len(records)), flag) + records + tar.padding(len(records))


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_reads_what_tarfile_writes(format_):
    payloads = {name: bytes([number]) * (number * 300) for number, name in enumerate(NAMES)}
    if format_ == tarfile.USTAR_FORMAT:
        payloads = {name: data for name, data in payloads.items() if len(name) <= 100}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in payloads.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    raw = buffer.getvalue()
    actual = _members(raw)
    assert {member.name: raw[member.offset : member.offset + member.size] for member in actual} == payloads


@pytest.mark.parametrize("name", ["a.jpg", "x" * 100])
def test_tarfile_reads_what_the_header_writes(name):
    data = b"hello" * 50
    raw = tar.header(name, len(data)) + data + tar.padding(len(data)) + tar.END
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        (entry,) = archive.getmembers()
        extracted = archive.extractfile(entry)
        assert extracted is not None and extracted.read() == data
    assert (entry.name, entry.mtime, entry.uid, entry.mode) == (name, 0, 0, 0o644)
    assert [member.name for member in _members(raw)] == [name]


def test_a_base_256_size_is_read():
    size = struct.pack(">B3xQ", 0x80, 700)
    raw = _block(size=size) + bytes(1024) + tar.END
    assert _members(raw) == [Member("a.jpg", 512, 700, 0)]


GOOD = tar.header("a.jpg", 600) + b"x" * 600 + tar.padding(600)
HOSTILE: dict[str, bytes] = {
    "empty file": b"",
    "zeros, too few": bytes(512),
    "no end": GOOD,
    "half an end": GOOD + bytes(512),
    "cut in the header": GOOD[:300],
    "cut in the payload": GOOD[:900],
    "cut in the padding": GOOD[:-1],
    "damaged checksum": GOOD[:148] + b"0000000\0" + GOOD[156:] + tar.END,
    "no checksum": _block()[:148] + b"        " + _block()[156:] + tar.END,
    "damaged name": b"b" + GOOD[1:] + tar.END,
    "zeroed header": GOOD + bytes(512) + GOOD + tar.END,
    "data after the end": GOOD + tar.END + GOOD,
    "one byte after the end": GOOD + tar.END + bytes(511) + b"\1",
    "gzip": b"\x1f\x8b\x08" + bytes(600),
    "bzip2": b"BZh9" + b"1" * 600,
    "xz": b"\xfd7zXZ\0" + b"1" * 600,
    "zip": b"PK\3\4" + b"1" * 600,
    "text": b"image,caption\n" * 100,
    "negative size, base 256": _block(size=b"\xff" * 12) + tar.END,
    "minus one byte, base 256": _block(size=b"\xff" * 11 + b"\xfe") + tar.END,
    "huge size, base 256": _block(size=b"\x80" + b"\x7f" * 11) + tar.END,
    "huge size, octal": _block(size=b"77777777777\0") + tar.END,
    "negative octal size": _block(size=b"-0000000001\0") + tar.END,
    "size in letters": _block(size=b"abcdefghijk\0") + tar.END,
    "size in decimal": _block(size=b"00000000999\0") + tar.END,
    "size with a space inside": _block(size=b"0000 000001\0") + tar.END,
    "hard link": _block(flag=b"1") + tar.END,
    "symbolic link": _block(flag=b"2") + tar.END,
    "character device": _block(flag=b"3") + tar.END,
    "block device": _block(flag=b"4") + tar.END,
    "named pipe": _block(flag=b"6") + tar.END,
    "contiguous file": _block(flag=b"7") + tar.END,
    "sparse file": _block(flag=b"S") + tar.END,
    "multi-volume": _block(flag=b"M") + tar.END,
    "volume label": _block(flag=b"V") + tar.END,
    "long link": _block(flag=b"K") + tar.END,
    "unknown type": _block(flag=b"?") + tar.END,
    "step upwards": _block(b"../../etc/passwd") + tar.END,
    "step upwards inside": _block(b"a/../../b") + tar.END,
    "step upwards with backslashes": _block(b"..\\b") + tar.END,
    "absolute": _block(b"/etc/passwd") + tar.END,
    "no name": _block(b"") + tar.END,
    "name not UTF-8": _block(b"\xff\xfe.jpg") + tar.END,
    "absolute by prefix": _pax(b"20 path=/etc/passwd\n") + _block() + tar.END,
    "step upwards by pax": _pax(b"12 path=../b\n") + _block() + tar.END,
    "NUL by pax": _pax(b"12 path=a\0.b\n") + _block() + tar.END,
    "endless pax length": _pax(b"99 path=a\n") + _block() + tar.END,
    "zero pax length": _pax(b"0 path=a\n") + _block() + tar.END,
    "tiny pax length": _pax(b"3 path=a\n") + _block() + tar.END,
    "no pax length": _pax(b"path=a\n") + _block() + tar.END,
    "negative pax length": _pax(b"-9 path=a\n") + _block() + tar.END,
    "huge pax length": _pax(b"9" * 5000 + b" path=a\n") + _block() + tar.END,
    "pax without value": _pax(b"8 path a\n"[:8]) + _block() + tar.END,
    "pax size beyond the file": _pax(b"17 size=99999999\n") + _block() + tar.END,
    "pax size negative": _pax(b"11 size=-1\n") + _block() + tar.END,
    "pax size of 40 digits": _pax(b"49 size=" + b"9" * 40 + b"\n") + _block() + tar.END,
    "pax sparse": _pax(b"22 GNU.sparse.major=1\n") + _block() + tar.END,
    "pax of a gigabyte": _block(b"pax", _octal(2**30), b"x") + tar.END,
    "pax longer than allowed": _pax(b"x" * 70_000) + _block() + tar.END,
    "pax cut short": _block(b"pax", _octal(600), b"x") + b"12 path=ab\n",
    "global pax of a gigabyte": _block(b"pax", _octal(2**30), b"g") + tar.END,
    "long name of a megabyte": _block(b"L", _octal(2**20), b"L") + b"n" * 2**20 + _block() + tar.END,
    "long name upwards": _block(b"L", _octal(6), b"L") + b"../bc\0".ljust(512, b"\0") + _block() + tar.END,
    "directory with a payload": _block(b"d", _octal(512), b"5") + b"x" * 512 + tar.END,
    "extension without a member, cut": _pax(b"10 path=a\n"),
}


@pytest.mark.timeout(30)
def test_hostile_archives_are_refused_with_a_reason_in_little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in HOSTILE.items():
        with pytest.raises((IntegrityError, DataError)) as caught:
            _members(data)
        assert caught.value.where and (caught.value.found or caught.value.expected), name
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 50 * 1024


def test_twenty_thousand_extension_headers_do_not_recurse():
    raw = _pax(b"10 path=a\n") * 20_000 + _block() + tar.END
    assert [member.name for member in _members(raw)] == ["a"]


def test_a_directory_without_payload_and_a_global_header_are_passed_over():
    raw = _pax(b"13 comment=x\n", b"g") + _block(b"./", flag=b"5") + _block(b"a.jpg") + tar.END
    assert [member.name for member in _members(raw)] == ["a.jpg"]


def test_every_single_bit_flip_of_a_header_is_noticed():
    raw = GOOD + tar.END
    original = _members(raw)
    unnoticed = set()
    for bit in range(512 * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << (bit % 8)
        with suppress(DiptychError):
            if _members(bytes(flipped)) == original:
                unnoticed.add(bit // 8)
    # What may pass says nothing: the checksum's leading zero as a space, and what ends its digits.
    assert unnoticed <= {148, 154, 155}
