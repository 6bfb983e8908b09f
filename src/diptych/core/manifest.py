"""Manifests: what a stage read, wrote, counted and how it was set, in one file that is written last.

A folder with a `manifest.json` is finished; one without is not. The manifest carries a digest of itself, so
that a changed manifest is as loud as a changed file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.errors import IntegrityError, SettingsError, UsageError
from diptych.core.files.durable import sha256_file, write_json
from diptych.core.files.reading import read_json
from diptych.core.settings import from_mapping, to_mapping

MANIFEST_NAME = "manifest.json"
MAX_BYTES = 2**28  # 100,000 shards take 20 MB
MAX_NAME = 255  # bytes of a file's name, on every common file system
SHOWN_CHARACTERS = 60
REMEDY = "restore it from a copy, or make the folder again"


def created_by() -> str:
    """Return the name and version of this package, for manifests."""
    try:
        return f"diptych {metadata.version('diptych')}"
    except metadata.PackageNotFoundError:
        return "diptych (not installed)"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file by name (relative, with "/"), size in bytes and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of one finished stage.

    Attributes:
        kind: what the folder is: "shards", "checkpoint", "run", …
        inputs: the files that it read; names as the user gave them.
        outputs: the files that it wrote; names relative to the folder.
        extra: whatever else the kind needs, plain values.
    """

    kind: str
    format: int = 1  # version of that kind's layout
    created_by: str = field(default_factory=created_by)
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[FileEntry, ...] = ()
    outputs: tuple[FileEntry, ...] = ()
    counts: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)


def file_entry(path: Path, *, root: Path | None = None) -> FileEntry:
    """Measure one file; its name is relative to `root`, or the path as it was given."""
    name = (path.relative_to(root) if root is not None else path).as_posix()
    return FileEntry(name=name, bytes=path.stat().st_size, sha256=sha256_file(path))


def content_digest(manifest: Manifest) -> str:
    """Return a digest of what was written: equal for two runs that wrote equal files.

    >>> content_digest(Manifest("shards", seconds=1.0)) == content_digest(Manifest("shards", seconds=2.0))
    True
    """
    entries = sorted((entry.name, entry.bytes, entry.sha256) for entry in manifest.outputs)
    return _digest([manifest.kind, manifest.format, entries])


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest: the last and atomic step of a stage."""
    # Through JSON and back first: the digest must be over what a reader will see (tuples, number keys).
    body = json.loads(json.dumps(to_mapping(manifest), allow_nan=False))
    write_json(Path(folder) / MANIFEST_NAME, {**body, "sha256": _digest(body)})


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """Read a manifest of a kind, or of any, and check it against its own digest.

    Raises:
        UsageError: there is none (the stage never finished), or it is of another kind.
        IntegrityError: it was changed after it was written.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        fix = "give a folder that a finished command wrote; run a command that was cut off again"
        what = f"not a {kind or 'finished'} folder: it has no {MANIFEST_NAME}"
        raise UsageError(what, where=folder, fix=fix)
    body = read_json(path, max_bytes=MAX_BYTES, fix=REMEDY)
    stated, actual = body.pop("sha256", None), _digest(body)
    if stated != actual:
        raise _damaged(path, found=f"sha256 {actual}", expected=f"{stated}"[:64])
    try:
        manifest = from_mapping(Manifest, body)
    except SettingsError as error:
        raise _damaged(path, found=str(error), expected="the manifest that diptych wrote") from error
    for entry in manifest.outputs:
        _check_name(path, entry.name)
    if kind is not None and manifest.kind != kind:
        raise UsageError("a folder of another kind", where=folder, found=manifest.kind, expected=kind)
    return manifest


def is_done(folder: Path, kind: str) -> bool:
    """Tell whether a stage of this kind has finished in the folder; a damaged manifest is an error."""
    path = Path(folder) / MANIFEST_NAME
    return path.is_file() and read_manifest(folder).kind == kind


def verify(folder: Path, manifest: Manifest | None = None) -> Manifest:
    """Hold every file that a stage wrote against its manifest, read unless given; see `check_file`."""
    manifest = manifest or read_manifest(folder)
    for entry in manifest.outputs:
        check_file(Path(folder), entry)
    return manifest


def check_file(folder: Path, entry: FileEntry) -> Path:
    """Hold one file against its entry and return its path.

    Raises:
        IntegrityError: missing, of another size or digest, or with a name that leaves the folder.
    """
    _check_name(folder / MANIFEST_NAME, entry.name)
    path = folder / entry.name
    size = f"{path.stat().st_size:,} bytes" if path.is_file() else "no such file"
    if size != f"{entry.bytes:,} bytes":
        raise _damaged(path, found=size, expected=f"{entry.bytes:,} bytes")
    actual = sha256_file(path)
    if actual != entry.sha256:
        raise _damaged(path, found=f"sha256 {actual}", expected=entry.sha256)
    return path


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    sane = all(part not in ("/", "..") and len(part.encode(errors="replace")) <= MAX_NAME for part in parts)
    if not sane or "\0" in name:
        shown = name[:SHOWN_CHARACTERS]
        raise _damaged(path, found=f"the file name {shown!r}", expected="a name inside the folder")


def _damaged(path: Path, **parts: str) -> IntegrityError:
    return IntegrityError("the file is not what was written", where=path, fix=REMEDY, **parts)


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
