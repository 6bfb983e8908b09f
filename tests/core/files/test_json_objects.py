"""The reader of JSON objects: one object of finite numbers from a regular file of bounded size."""

import os
from pathlib import Path

import pytest

from diptych.core.errors import IntegrityError, UsageError
from diptych.core.files.json_objects import read_json


def test_an_object_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"a": [1, 2.5, "é"]}', "utf-8")
    assert read_json(tmp_path / "good.json") == {"a": [1, 2.5, "é"]}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[1]", b"7", b"{", b"\xff\xff", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}", b'{"a":' * 100_000, b" " * 101 + b"{}",
    ],
)  # fmt: skip
def test_anything_else_is_damaged(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(data)
    limit = 100 if data.endswith(b" {}") else 2**20
    with pytest.raises(IntegrityError, match=r"bad\.json") as error:
        read_json(tmp_path / "bad.json", max_bytes=limit, fix="fetch it again")
    assert "to do: fetch it again" in str(error.value) and len(str(error.value)) < 500


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")  # opening it would wait for ever
    for name in ("missing.json", "pipe.json", "."):
        with pytest.raises(UsageError, match="no such file"):
            read_json(tmp_path / name)
