"""Cache of what this machine has verified about a model's folder, so that it need not be verified again.

Loading a model hashes its files and embeds its reference inputs: for ViT-B/32 on one core 1.1 s in torch and
2.5 s in ONNX Runtime. Both give the same every time until something changes, so the results are kept with
what they depend on: of files the size, times and inode, of embeddings the processor, the versions and this
package's own code. A change makes the entry void.

Reads and writes: `verification_cache.json` in the model's folder. It is no part of the model: without it, or
where it cannot be written, everything is verified again. Who can forge it can forge the model.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from diptych.core.errors import DiptychError, EnvironmentFault, IntegrityError
from diptych.core.files.durable import sha256_file, write_json
from diptych.core.files.reading import read_json
from diptych.core.manifest import Manifest, check_file, created_by, read_manifest
from diptych.core.settings import from_mapping
from diptych.models.tokenizers import vocabulary_file

CONFIG = "config.json"
D = TypeVar("D")
CACHE_NAME = "verification_cache.json"
REFERENCE_OUTPUTS, OLD_REFERENCE_OUTPUTS = "reference_outputs.safetensors", "golden.safetensors"

Cosines = dict[str, float]  # of each tower, the smallest with the reference outputs


def reference_file(folder: Path) -> Path:
    """Return the file of a model's reference inputs and outputs, under the name that its version gave it."""
    old = folder / OLD_REFERENCE_OUTPUTS
    return old if old.is_file() else folder / REFERENCE_OUTPUTS


class VerificationCache:
    """Verified digests and reference outputs of a model's folder with this manifest."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._files: dict[str, list[int]] = {}
        self._cosines: dict[str, Cosines] = {}
        # A cache that cannot be read is an empty cache.
        with suppress(DiptychError, ValueError, TypeError, KeyError, AttributeError):
            stored = read_json(folder / CACHE_NAME)
            self._files = {str(name): list(map(int, stat)) for name, stat in stored["files"].items()}
            self._cosines = {
                str(key): {str(name): float(value) for name, value in cosines.items()}
                for key, cosines in stored["cosines"].items()
            }

    def check_files(self, *, force: bool) -> None:
        """Hold every file against its digest, unless it is the very file that was checked before."""
        known = {} if force else self._files
        now = {}
        for entry in self._manifest.outputs:
            before = _stat(self._folder / entry.name)
            if not before or before != known.get(entry.name):
                check_file(self._folder, entry)
            now[entry.name] = before
        if now != self._files:
            self._files, self._cosines = now, {}
            self._write()

    def get(self, key: str) -> Cosines | None:
        """Return what was verified under this key by this version of the code, if anything was."""
        return self._cosines.get(_versioned(key))

    def put(self, key: str, cosines: Cosines) -> None:
        """Keep a result."""
        self._cosines[_versioned(key)] = cosines
        self._write()

    def _write(self) -> None:
        with suppress(EnvironmentFault):  # a folder that cannot be written is checked every time
            write_json(self._folder / CACHE_NAME, {"files": self._files, "cosines": self._cosines})


def _versioned(key: str) -> str:
    return f"{key}, {created_by()} {_code()}"


@cache
def _code() -> int:
    """Return when the code that embeds was last changed, in nanoseconds."""
    package = Path(__file__).parent.parent.parent
    paths = [path for folder in ("models", "data") for path in (package / folder).rglob("*.py")]
    return max((path.stat().st_mtime_ns for path in paths), default=0)


def _stat(path: Path) -> list[int]:
    with suppress(OSError):
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return []


def open_verified(
    folder: Path, kind: str, description: type[D], check: Callable[[D], object], digest: str, *, force: bool
) -> tuple[D, Manifest, VerificationCache]:
    """Verify a folder of version 1 and read what its config.json describes.

    Args:
        folder: a checkpoint or an export.
        kind: of its manifest.
        description: the class of its config.json, with the architecture as `model`.
        check: raises a `DiptychError` where the description is no model's.
        digest: the attribute that has the digest of the tokenizer's file.
        force: hash every file, see `VerificationCache.check_files`.

    Raises:
        IntegrityError: a file is missing or changed, or of another version, or belongs to another model.
    """
    manifest, path = read_manifest(folder, kind), folder / CONFIG
    remedy = f"restore the {kind} from a copy, or write it again"
    if manifest.format != 1:
        what, found = f"the {kind} has another format", f"format {manifest.format}"
        fix = f"read it with the version that wrote it ({manifest.created_by})"
        raise IntegrityError(what, where=folder, found=found, expected="format 1", fix=fix)
    verified = VerificationCache(folder, manifest)
    verified.check_files(force=force)
    try:
        stated: Any = from_mapping(description, read_json(path), where=path)
        check(stated)
    except DiptychError as error:
        what = "cannot read the description"
        raise IntegrityError(what, where=path, found=str(error), fix=remedy) from error
    vocabulary, expected = vocabulary_file(folder, stated.model.text), attrgetter(digest)(stated)
    found = sha256_file(vocabulary)
    if found != expected:
        what = "the tokenizer is not the one that these weights learned with"
        raise IntegrityError(what, where=vocabulary, found=f"sha256 {found}", expected=expected, fix=remedy)
    return stated, manifest, verified
