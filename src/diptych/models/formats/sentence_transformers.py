"""Find the CLIP in a folder of sentence-transformers, where the stages of a model have folders of their own.

Reads: `modules.json`.
Source: sentence-transformers 6.2 `SentenceTransformer.save_pretrained`; older releases named the first
stage's folder `0_CLIPModel`.
"""

import json
from pathlib import Path
from typing import Any

from diptych.core.errors import UnsupportedError
from diptych.models.files.parts import malformed

MODULES = "modules.json"
MAX_BYTES = 2**20
CLIPS = ("CLIPModel", "Transformer")  # the second reads any model of transformers: its config.json decides
HARMLESS = ("Normalize",)
"""Stages behind the towers that leave unit embeddings as they are."""


def clip_folder(folder: Path) -> Path:
    """Return the folder of the CLIP that a sentence-transformers folder holds; any other folder as it is.

    Raises:
        UnsupportedError: its stages are not a CLIP alone.
        IntegrityError: `modules.json` is malformed.
    """
    path = folder / MODULES
    if not path.is_file():
        return folder
    stages = _stages(path)
    kinds = [kind.rpartition(".")[2] for kind, _ in stages]
    if not kinds or kinds[0] not in CLIPS or any(kind not in HARMLESS for kind in kinds[1:]):
        raise UnsupportedError(
            "diptych reads of sentence-transformers' models CLIPs alone",
            where=path,
            found=", ".join(kind[:40] for kind in kinds[:6]) or "no stage",
            expected=f"{CLIPS[0]}, with nothing behind it but {' or '.join(HARMLESS)}",
            fix="load it with sentence_transformers.SentenceTransformer",
        )
    inside = (folder / stages[0][1]).resolve()
    if not inside.is_relative_to(folder.resolve()):
        raise malformed(path, "a path that leads out of the folder", "a folder beside modules.json")
    return inside


def _stages(path: Path) -> list[tuple[str, str]]:
    """Return class and folder of each stage."""
    try:
        with path.open("rb") as file:
            listed: Any = json.loads(file.read(MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise malformed(path, type(error).__name__, "JSON") from error
    rows: list[Any] = listed if isinstance(listed, list) else [None]
    if not all(isinstance(row, dict) and _is_text(row.get("type"), row.get("path", "")) for row in rows):
        raise malformed(path, "other entries", "a list of stages with type and path")
    return [(row["type"], row.get("path", "")) for row in rows]


def _is_text(*values: object) -> bool:
    return all(isinstance(value, str) and "\0" not in value for value in values)
