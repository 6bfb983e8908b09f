"""What this machine has found out about a model's folder, so that it need not find it out again.

Loading a model hashes its files and embeds its golden inputs: seconds for ViT-B/32. Both say the same every
time until something changes, so they are noted with what they depend on: of files the size, times and inode,
of embeddings the processor, the versions and this package's own code. A change makes the note void.

Reads and writes: `measured.json` in the model's folder. It is a memory, not a part of the model: without it,
or where it cannot be written, everything is found out again. Who can forge it can forge the model.
"""

from contextlib import suppress
from functools import cache
from pathlib import Path

from diptych.core.errors import DiptychError, EnvironmentFault
from diptych.core.files.durable import write_json
from diptych.core.files.json_objects import read_json
from diptych.core.manifest import Manifest, check_file, created_by

NOTES = "measured.json"

Measured = dict[str, float]


class Notes:
    """The notes about one folder.

    Args:
        folder: of a model.
        manifest: its receipt.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._files: dict[str, list[int]] = {}
        self._found: dict[str, Measured] = {}
        # Whatever is wrong with a memory, forgetting it is right.
        with suppress(DiptychError, ValueError, TypeError, KeyError, AttributeError):
            noted = read_json(folder / NOTES)
            self._files = {str(name): list(map(int, stat)) for name, stat in noted["files"].items()}
            self._found = {
                str(key): {str(name): float(value) for name, value in found.items()}
                for key, found in noted["found"].items()
            }

    def check_files(self, *, force: bool) -> None:
        """Hold every file against its digest, unless it is the very file that was checked before.

        Raises:
            IntegrityError: a file is missing or changed.
        """
        known = {} if force else self._files
        now = {}
        for entry in self._manifest.outputs:
            path = self._folder / entry.name
            before = _stat(path)
            if not before or before != known.get(entry.name):
                check_file(self._folder, entry)
            now[entry.name] = before
        if now != self._files:
            self._files, self._found = now, {}
            self._write()

    def recall(self, key: str) -> Measured | None:
        """Return what was found out under these circumstances, if anything was."""
        return self._found.get(_circumstances(key))

    def remember(self, key: str, found: Measured) -> None:
        """Note what was found out."""
        self._found[_circumstances(key)] = found
        self._write()

    def _write(self) -> None:
        with suppress(EnvironmentFault):  # a folder that cannot be written is checked every time
            write_json(self._folder / NOTES, {"files": self._files, "found": self._found})


def _circumstances(key: str) -> str:
    return f"{key}, {created_by()} {_code()}"


@cache
def _code() -> int:
    """Return when the code that embeds was last changed, in nanoseconds."""
    home = Path(__file__).parent.parent
    files = [*home.rglob("*.py"), *(home.parent / "data").rglob("*.py")]
    return max((path.stat().st_mtime_ns for path in files), default=0)


def _stat(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
