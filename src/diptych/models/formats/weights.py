"""Read weights from any file that people share them in: names to tensors, and nothing is executed.

Reads: safetensors, one file or shards under an index; what `torch.save` wrote, also a training checkpoint
(its `state_dict`; the optimizer beside it is not touched) with the prefixes of wrappers; the TorchScript
archives in which OpenAI published CLIP. The kind is told by the first bytes, not by the name.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diptych.core.errors import EnvironmentFault, IntegrityError, UsageError
from diptych.core.files.reading import read_json
from diptych.models.formats.torchscript_pickle import (
    MAX_TUPLE_ITEMS,
    RefusedError,
    Storage,
    largest_tuple,
    read_archive,
)

INDEX_SUFFIX = ".index.json"
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
PICKLES_OF_A_FILE = 4  # before torch 1.6: a number, a version, facts of the system, and then what was saved
COPY_BYTES = 1 << 20
SHOWN = 5  # names in a message

_EMBEDDING = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:text\.|text_model\.embeddings\.)?token_embedding\.weight", re.DOTALL
)
# How torch's restricted unpickler words the name that it refuses.
_NAMED = re.compile(r"unsupported global:? (?:GLOBAL )?(\S+)", re.IGNORECASE)
_DAMAGES = (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error)


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors as they lie in their files.

    Attributes:
        tensors: by name, without the prefixes of wrappers; they may be views of the mapped file.
        modules: class name of each module, which only a TorchScript archive tells.
        taken_from: key and prefix under which the CLIP lay in its file; empty where it lay open.
    """

    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    modules: Mapping[str, str] = field(default_factory=dict)
    taken_from: str = ""


def read_weights(path: Path) -> Weights:
    """Read a weights file, or the index of a sharded one: tensors on the CPU, in the dtypes of the file.

    Raises:
        UsageError: there is no such file, or it holds other tensors or a second CLIP beside the first.
        IntegrityError: it is damaged, no weights, or holds more than weights.
    """
    return _unwrapped(_read(path), path)


def require_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Refuse weights that are not numbers, such as those of a training that diverged.

    Of `logit_scale` the exponential counts. `where`: their file, for the message.
    """
    for name, tensor in tensors.items():
        value = tensor.exp() if name == "logit_scale" else tensor
        # A sum is as fast as reading and needs no memory; where large numbers overflow it, look at each.
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            what, stated = "the weights are not finite numbers", f"{where}: {name}"
            fix = "take an earlier checkpoint: the training that wrote this one had diverged"
            raise IntegrityError(what, where=stated, found="NaN or infinity", fix=fix)


def _read(path: Path) -> Weights:
    if path.name.endswith(INDEX_SUFFIX):
        return _sharded(path)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError as error:
        raise UsageError("there is no such weights file", where=path, fix="check the path") from error
    except OSError as error:
        raise EnvironmentFault("cannot read the file", where=path, found=error.strerror or error) from error
    if start[8:9] == b"{":
        try:
            with safe_open(path, framework="pt", device="cpu") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 — no mapping
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise _damaged(path, error) from error
        return Weights(tensors, (path,))
    if start.startswith(b"PK"):
        return _zipped(path)
    if start.startswith(b"\x80"):  # a bare pickle: what torch.save wrote before 1.6
        return _state(_torch_load(path, zipped=False), path)
    raise _damaged(path, f"a file that begins with {start[:8]!r}")


def _sharded(index: Path) -> Weights:
    listed = read_json(index).get("weight_map")
    names = [*listed.values()] if isinstance(listed, dict) else []
    plain = all(isinstance(name, str) and name == Path(name).name and name != ".." for name in names)
    if not isinstance(listed, dict) or not all(names) or not names or not plain:
        raise _damaged(index, "no weight_map of tensor names to file names in this folder")
    tensors: dict[str, Tensor] = {}
    shards = {name: index.with_name(name) for name in sorted(set(names))}
    for name, shard in shards.items():
        if not shard.is_file():
            what, fix = "a part of the weights is missing", "copy or download the file beside the others"
            expected = f"all {len(shards)} files that {index.name} names"
            raise IntegrityError(what, where=shard, found="no such file", expected=expected, fix=fix)
        part = _read(shard).tensors
        if odd := part.keys() ^ {tensor for tensor, file in listed.items() if file == name}:
            shown = ", ".join(sorted(odd)[:SHOWN])
            raise _damaged(shard, f"not the tensors that {index.name} says: {shown}")
        tensors |= part
    return Weights(tensors, (index, *shards.values()))


def _zipped(path: Path) -> Weights:
    """Read what `torch.save` wrote, or a TorchScript archive; both are zip files with checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _archive(archive, path)
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"a wrong checksum of {broken}")
    except RefusedError as error:
        raise IntegrityError(
            "the archive holds more than weights, or is damaged; nothing of it was executed",
            where=path,
            found=error,
            expected="the modules and tensors of a TorchScript archive",
            fix="download or copy the file again, from a source you trust",
        ) from error
    except _DAMAGES as error:
        raise _damaged(path, error) from error
    return _state(_torch_load(path, zipped=True), path)


def _archive(archive: zipfile.ZipFile, path: Path) -> Weights:
    root, views, modules = read_archive(archive)
    storages = {
        storage: _storage(archive, f"{root}/data/{storage.key}", storage)
        for storage in sorted({view.storage for view in views.values()})
    }
    tensors = {
        name: storages[view.storage].as_strided(view.shape, view.stride, view.offset)
        for name, view in views.items()
    }
    return Weights(tensors, (path,), modules)


def _storage(archive: zipfile.ZipFile, name: str, storage: Storage) -> Tensor:
    """Read one member, whose checksum `zipfile` verifies at its end."""
    info, dtype = archive.getinfo(name), getattr(torch, storage.dtype)
    size = storage.elements * dtype.itemsize
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != size:
        raise ValueError(f"{name} has {info.file_size:,} bytes for {storage.elements:,} of {storage.dtype}")
    data = bytearray()
    with archive.open(info) as member:
        # In pieces: a wrong size in the directory cannot claim memory that no byte fills.
        while piece := member.read(COPY_BYTES):
            data += piece
    if len(data) != size:
        raise ValueError(f"{len(data):,} bytes instead of {size:,}")
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _torch_load(path: Path, *, zipped: bool) -> Any:
    if _has_endless_tuples(path, zipped=zipped):
        raise _damaged(path, f"tuples inside each other of more than {MAX_TUPLE_ITEMS:,} items")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        message = str(error) or type(error).__name__
        named = _NAMED.search(message)
        if named is None:
            lines = [line.strip() for line in message.splitlines() if "WeightsUnpickler" in line]
            raise _damaged(path, (lines or message.splitlines())[0]) from error
        what, stated = (
            "the file holds more than weights; nothing of it was executed",
            f"a reference to {named[1]}",
        )
        fix = "where you trust the file, save the state dictionary alone: safetensors.torch.save_file"
        raise IntegrityError(what, where=path, found=stated, expected="tensors by name", fix=fix) from error


def _has_endless_tuples(path: Path, *, zipped: bool) -> bool:
    """Tell whether torch's reader would hash tuples of 2^60 items; see `largest_tuple`."""
    try:
        # In memory or mapped: a length that is damaged must not make `read` ask for as many bytes.
        if zipped:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                return any(largest_tuple(io.BytesIO(archive.read(n))) > MAX_TUPLE_ITEMS for n in names)
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
            return any(largest_tuple(mapped) > MAX_TUPLE_ITEMS for _ in range(PICKLES_OF_A_FILE))
    except (ValueError, IndexError, KeyError, AttributeError, EOFError, OverflowError, zlib.error):
        return False  # no pickle: torch says what is wrong with it


def _state(loaded: Any, path: Path) -> Weights:
    """Find the tensors by name in what was saved: the mapping, its `state_dict`, or the one CLIP in it."""
    key = ""
    if isinstance(loaded, Mapping):
        inside = {str(name): value for name, value in loaded.items() if isinstance(value, Mapping)}
        clips = [name for name, value in inside.items() if _prefixes(value)]
        key = "state_dict" if "state_dict" in inside else "".join(clips[:1])
        if len(clips) > 1 and key != "state_dict":
            raise _not_alone(path, f"one each under {', '.join(name[:60] for name in clips[:SHOWN])}")
        loaded = inside.get(key, loaded)
    if not isinstance(loaded, Mapping):
        raise _damaged(path, f"a {type(loaded).__name__} instead of tensors by name")
    others = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]
    if others or not loaded:
        raise _damaged(path, f"entries that are no tensors: {', '.join(others[:SHOWN])}" * bool(others))
    return Weights({str(name): value for name, value in loaded.items()}, (path,), taken_from=key)


def _prefixes(names: Iterable[object]) -> list[str]:
    """Return what stands before the names of each CLIP, told by the embedding of its texts."""
    matches = (_EMBEDDING.fullmatch(str(name)) for name in names)
    return sorted({match["prefix"] for match in matches if match})


def _unwrapped(weights: Weights, path: Path) -> Weights:
    """Cut off the prefix that all names share because the model was a part of another when it was saved."""
    plain, prefixes = weights.tensors, _prefixes(weights.tensors)
    if len(prefixes) > 1:
        raise _not_alone(path, f"one each under {', '.join(repr(name[:60]) for name in prefixes[:SHOWN])}")
    prefix = prefixes[0] if prefixes else ""
    wrappers = WRAPPERS if plain and not prefixes else ()
    while shared := [w for w in wrappers if all(name.startswith(prefix + w) for name in plain)]:
        prefix += shared[0]
    if others := [name[:60] for name in plain if not name.startswith(prefix)]:
        raise _not_alone(path, f"one under {prefix[:60]}, beside {', '.join(others[:SHOWN])}")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    taken_from = ", ".join(part for part in (weights.taken_from, prefix) if part)
    return replace(weights, tensors=tensors, taken_from=taken_from)


def _not_alone(path: Path, found: str) -> UsageError:
    what, expected = "the file holds more than one CLIP", "a CLIP alone, or under one key"
    fix = "save the state dictionary of the one that is meant: torch.save(clip.state_dict(), PATH)"
    return UsageError(what, where=path, found=found, expected=expected, fix=fix)


def _damaged(path: Path, found: object) -> IntegrityError:
    stated = str(found)[:200] or (type(found).__name__ if isinstance(found, Exception) else "nothing")
    expected = "safetensors, a state dictionary of torch.save, or a TorchScript archive, whole"
    fix = "download or copy the file again, from a source you trust"
    return IntegrityError("the weights cannot be read", where=path, found=stated, expected=expected, fix=fix)
