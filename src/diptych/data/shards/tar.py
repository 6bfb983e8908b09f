"""Tar files as WebDataset uses them: headers in, headers out, nothing extracted and nothing trusted.

Why our own (decision 002): Python's ``tarfile`` stops without an exception at a damaged or zeroed header,
so half a shard can vanish silently, and a negative size sent it round for ever (CVE-2025-8194). Here every
checksum is checked, sizes are bounded by the file before anything is read, links, devices and sparse files
are refused, the two zero blocks at the end are required, and whatever follows them must be zero. The payload
is never read, so the time and memory used depend on the number of headers only.

Reads: ustar and pax archives, with GNU long names.
Source: POSIX.1-2017 "pax", sections "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic
Tar Format".
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from diptych.core.errors import DataError, IntegrityError

BLOCK = 512
END = bytes(2 * BLOCK)  # the two zero blocks that end an archive

_MAX_NAME_BYTES = 4096  # PATH_MAX of Linux: a longer name is no file's
_MAX_PAX_BYTES = 1 << 16  # a pax header carries a path and a few times; GNU tar writes a twentieth of this
_MAX_SIZE = 1 << 43  # 8 TiB, the largest file of ustar's own octal field times a thousand
_CHUNK = 1 << 20
_NAME_BYTES = 100
_ZERO_BLOCK = bytes(BLOCK)

_FILES = (b"0", b"\0")  # type flags of a regular file; NUL is from archives before POSIX
_DIRECTORY, _PAX, _PAX_GLOBAL, _GNU_NAME = b"5", b"x", b"g", b"L"
_FORBIDDEN = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device",
    b"6": "a named pipe", b"7": "a contiguous file", b"K": "a long link name", b"S": "a sparse file",
    b"M": "a piece of a multi-volume file", b"V": "a volume label", b"D": "a directory dump",
}  # fmt: skip
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard", b"PK": "zip"}
_DO_NOT_USE = "do not use this file; it was made to harm or by a broken writer"


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file inside a tar: its name, and where header and payload lie, in bytes from the start."""

    name: str
    offset: int
    size: int
    header_offset: int  # of the first block that belongs to it, a pax header or long name included

    @property
    def end(self) -> int:
        """Return the offset behind the payload and its padding, where the next header begins."""
        return self.offset + self.size + len(padding(self.size))


def padding(size: int) -> bytes:
    """Return the zero bytes that follow a payload of this size.

    >>> len(padding(500))
    12
    """
    return _ZERO_BLOCK[: -size % BLOCK]


def header(name: str, size: int) -> bytes:
    """Build the header block of a regular file: `name` of at most 100 ASCII letters, `size` below 8 GiB.

    Owner, group and time are zero and the mode is 0644, so that equal data makes equal archives.

    >>> len(header("000000.jpg", 12))
    512
    """
    front = name.encode("ascii").ljust(_NAME_BYTES, b"\0") + b"0000644\0" + b"0000000\0" * 2
    front += b"%011o\0" % size + b"00000000000\0"
    back = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    return front + b"%06o\0 " % (sum(front) + sum(back) + 8 * 0x20) + back


def read_members(file: BinaryIO, *, name: str = "tar") -> Iterator[Member]:
    """Yield the regular files of a tar, in order; directories are passed over.

    The file may be read elsewhere between two members; errors call it `name`.

    Raises:
        IntegrityError: the archive is damaged: a checksum is wrong, it is cut short, or data follows its end.
        DataError: the archive is whole but holds what no shard holds: links, devices, sparse files, names
            that step out of the folder, limits exceeded, or it is compressed.
    """
    return _Walk(file, name).members()


class _Walk:
    """One pass over an archive; holds the position and what extension headers said about the next member."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        self.position = file.tell()
        self.end = file.seek(0, os.SEEK_END)
        self.long_name: str | None = None
        self.long_size: int | None = None

    def members(self) -> Iterator[Member]:
        start = self.position
        while (block := self._read(BLOCK, "a header")) != _ZERO_BLOCK:
            flag = self._check(block)
            size = self._size(block)
            if flag in (_PAX, _PAX_GLOBAL, _GNU_NAME):
                self._extension(flag, size)
                continue
            member = self._member(block, flag, size, start)
            self.position = start = member.end
            if flag != _DIRECTORY:
                yield member
        if self._read(BLOCK, "the end of the archive") != _ZERO_BLOCK:
            found = "one zero block and then data"
            self._broken("a zeroed header stands inside a tar", found, "two zero blocks at the end only")
        while chunk := self.file.read(_CHUNK):
            if chunk.count(0) != len(chunk):
                self._broken("data follows the end of a tar", "bytes that are not zero", "nothing, or zeros")
            self.position += len(chunk)

    def _member(self, block: bytes, flag: bytes, size: int, start: int) -> Member:
        if flag not in (*_FILES, _DIRECTORY):
            what = f"holds {_FORBIDDEN.get(flag, 'a member of unknown type')}"
            fix = "pack the files themselves, without links"
            self._refuse(what, f"type {flag!r}", "regular files", fix)
        raw = block[:_NAME_BYTES].split(b"\0", 1)[0]
        prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
        name = (
            self._text(prefix + b"/" + raw if prefix else raw) if self.long_name is None else self.long_name
        )
        size = size if self.long_size is None else self.long_size
        self.long_name = self.long_size = None
        if flag == _DIRECTORY:
            size = 0
        else:
            _check_name(name, where=self._here())
        self._bound(size)
        return Member(name, self.position, size, start)

    def _read(self, size: int, what: str) -> bytes:
        self.file.seek(self.position)
        data = self.file.read(size)
        self.position += len(data)
        if len(data) != size:
            found = f"{len(data)} of {size} bytes of {what}"
            self._broken("a tar is cut short", found, "a whole archive with two zero blocks at its end")
        return data

    def _bound(self, size: int) -> None:
        left = self.end - self.position
        if size + len(padding(size)) > left:
            what = "a tar is cut short, or a size in it is wrong"
            self._broken(what, f"a member of {size} bytes", f"at most the {left} bytes that follow")

    def _check(self, block: bytes) -> bytes:
        """Check the checksum, which counts its own field as eight spaces, and return the type flag."""
        stated, actual = _octal(block[148:156]), sum(block) - sum(block[148:156]) + 8 * 0x20
        packed = _COMPRESSED.get(block[:2]) if self.position == BLOCK else None
        if stated != actual and packed:
            fix = "decompress it first: images do not get smaller, and random access is lost"
            self._refuse(f"is compressed ({packed})", packed, "a plain tar", fix)
        if stated != actual:
            self._broken("a tar header is damaged", f"checksum {stated}", f"checksum {actual}")
        return block[156:157]

    def _size(self, block: bytes) -> int:
        field = block[124:136]
        # In base 256 without its mark; a negative number is a huge one here.
        value = int.from_bytes(field, "big") - (1 << 95) if field[0] & 0x80 else _octal(field)
        if not 0 <= value <= _MAX_SIZE:
            self._refuse("states an impossible size", repr(field), f"0 to {_MAX_SIZE}")
        return value

    def _extension(self, flag: bytes, size: int) -> None:
        limit = _MAX_NAME_BYTES + 1 if flag == _GNU_NAME else _MAX_PAX_BYTES
        if size > limit:
            self._refuse("has an oversized extension header", f"{size} bytes", f"at most {limit}")
        self._bound(size)
        data = self._read(size + len(padding(size)), "an extension header")[:size]
        if flag == _GNU_NAME:
            self.long_name = self._text(data.rstrip(b"\0"))
        elif flag == _PAX:
            self._pax(data)

    def _pax(self, data: bytes) -> None:
        while data:
            digits, _, _ = data.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) <= 5 else 0
            key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
            if not len(digits) + 3 <= length <= len(data) or not equals or data[length - 1 : length] != b"\n":
                self._broken("a pax header is malformed", repr(data[:40]), "'LENGTH key=value\\n'")
            if key == b"path":
                self.long_name = self._text(value)
            elif key == b"size":
                self.long_size = int(value) if value.isdigit() and len(value) <= 14 else _MAX_SIZE + 1
            elif key.startswith(b"GNU.sparse"):
                fix = "pack the files themselves, not sparse"
                self._refuse("holds a sparse file", repr(key), "regular files", fix)
            data = data[length:]

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            fix = "rename the file and pack it again"
            self._refuse("holds a name that is not UTF-8", repr(raw[:60]), "names in UTF-8", fix)

    def _here(self) -> str:
        return f"{self.name} at byte {max(0, self.position - BLOCK)}"

    def _broken(self, what: str, found: str, expected: str) -> NoReturn:
        fix = "fetch or write this file again"
        raise IntegrityError(what, where=self._here(), found=found, expected=expected, fix=fix)

    def _refuse(self, what: str, found: str, expected: str, fix: str = _DO_NOT_USE) -> NoReturn:
        what = f"refused: this tar {what}"
        raise DataError(what, where=self._here(), found=found, expected=expected, fix=fix)


def _check_name(name: str, *, where: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or parts[0] == "" or ".." in parts or len(name.encode()) > _MAX_NAME_BYTES:
        what, fix = "refused: a member name of a tar is unsafe", "pack the files again under plain names"
        found, expected = repr(name[:80]), "a relative name without '..', NUL or more than 4096 bytes"
        raise DataError(what, where=where[:200], found=found, expected=expected, fix=fix)


def _octal(field: bytes) -> int:
    """Read an octal header field; -1 for anything but octal digits ended by NULs or spaces."""
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else (0 if not digits else -1)
