"""Fetch the few files of a model from the Hugging Face hub, all from one commit.

Reads and writes: the cache of huggingface_hub. Files there are named by their digest, which is verified when
they are loaded.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.core.errors import EnvironmentFault, MissingPackageError, UsageError
from diptych.core.files.reading import read_json

OPEN_CLIP_CONFIG, CONFIG = "open_clip_config.json", "config.json"
# In the order of preference; open_clip's own loader takes the second where the first is missing.
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
SIDE_FILES = (
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "vocab.json", "merges.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip
VOCABULARY = "openai/clip-vit-base-patch32"  # with the vocabulary that nearly every CLIP uses
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Hub:
    """How to reach the hub."""

    revision: str | None = None  # branch, tag or commit; None: the newest
    cache_dir: Path | None = None  # None: that of huggingface_hub
    local_files_only: bool = False  # take what is in the cache, and nothing else


def fetch_model(repository: str, hub: Hub) -> Path:
    """Fetch configuration, weights, tokenizer and preprocessing of a model (`organization/name`).

    Returns:
        The folder in the cache that holds them; its name is the commit.
    """
    offline = hub.local_files_only or _package().is_offline_mode()
    hub = replace(hub, local_files_only=offline)
    config = _first(repository, (OPEN_CLIP_CONFIG, CONFIG), hub)
    hub = replace(hub, revision=config.parent.name)
    for name in SIDE_FILES:
        _get(repository, name, hub)
    names = (*OPEN_CLIP_WEIGHTS, *WEIGHTS) if config.name == OPEN_CLIP_CONFIG else WEIGHTS
    weights = _first(repository, names, hub)
    if weights.name.endswith(".index.json"):
        listed = read_json(weights).get("weight_map", {})
        for shard in sorted({str(name) for name in listed.values()} if isinstance(listed, dict) else ()):
            _first(repository, (shard,), hub)
    return config.parent


def cached_vocabulary(hub: Hub) -> Path | None:
    """Return the folder with OpenAI's vocabulary if it is in the cache; the network is not asked."""
    hub = replace(hub, revision=None, local_files_only=True)
    for names in (("tokenizer.json",), ("vocab.json", "merges.txt")):
        paths = [_get(VOCABULARY, name, hub) for name in names]
        if paths[0] is not None and None not in paths:
            return paths[0].parent
    return None


def stated_digest(path: Path) -> str | None:
    """Return the SHA-256 that the cache states for a large file: the name of the blob it links to."""
    name = path.resolve().name
    return name if path.is_symlink() and _DIGEST.fullmatch(name) else None


def _first(repository: str, names: Iterable[str], hub: Hub) -> Path:
    """Fetch the first of these files that there is."""
    path = next((path for name in names if (path := _get(repository, name, hub)) is not None), None)
    if path is not None:
        return path
    expected = " or ".join(names)
    if hub.local_files_only:
        what, fix = (
            "the model is not in the cache",
            f"fetch it while the network is there: hf download {repository}",
        )
        raise EnvironmentFault(what, where=repository, expected=expected, fix=fix)
    fix = "check the name; a file can also be fetched by hand and loaded by its path"
    raise UsageError(
        "the repository holds no CLIP that can be read", where=repository, expected=expected, fix=fix
    )


def _get(repository: str, name: str, hub: Hub) -> Path | None:
    """Fetch one file, or return None if the repository (or, offline, the cache) does not have it."""
    package = _package()
    errors = package.errors
    where = {"revision": hub.revision, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only}
    try:
        return Path(package.hf_hub_download(repository, name, **where))
    except errors.GatedRepoError as error:
        fix = "accept its terms on huggingface.co, then run `hf auth login`"
        raise EnvironmentFault("the repository wants a login", where=repository, fix=fix) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        stated = repository + (f"@{hub.revision}" if hub.revision else "")
        fix = "check the name and the revision; a private one needs `hf auth login`"
        raise UsageError("there is no such model on the hub", where=stated, fix=fix) from error
    except (OSError, errors.EntryNotFoundError) as error:
        unanswered = isinstance(error, errors.LocalEntryNotFoundError)  # the hub was not, or cannot be, asked
        if isinstance(error, errors.EntryNotFoundError) and (hub.local_files_only or not unanswered):
            return None
        raise EnvironmentFault(
            "the hub cannot be reached",
            where=f"{repository}/{name}",
            found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix="try again when the network is there, or load a folder on disk",
        ) from error


def _package() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        fix = "pip install huggingface_hub"
        raise MissingPackageError("the hub needs a package", found="no huggingface_hub", fix=fix) from error
    return huggingface_hub
