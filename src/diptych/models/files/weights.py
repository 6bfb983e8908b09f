"""Read weights from any file that people share them in: names to tensors, and nothing is executed.

Reads: safetensors, one file or shards under an index; what `torch.save` wrote, also a training checkpoint
(its `state_dict`; the optimizer beside it is not touched) with the prefixes of wrappers; the TorchScript
archives in which OpenAI published CLIP. The kind is told by the first bytes, not by the name.

Source: the safetensors format; PyTorch's `torch.save` and TorchScript serialization.
"""

import io
import json
import pickletools
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diptych.core.errors import EnvironmentFault, IntegrityError, UsageError
from diptych.core.files.json_objects import read_json

INDEX_SUFFIX = ".index.json"
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile put before every name."""

_EMBEDDING = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:text\.|text_model\.embeddings\.)?token_embedding\.weight", re.DOTALL
)

MARK = -1
MAX_TUPLES = 32
"""Tuples inside each other: a tensor's arguments are three."""
PICKLES_OF_A_FILE = 4
"""Before version 1.6 a file began with a number, a version, facts of the system, and then what was saved."""

_NAMED = re.compile(r"unsupported global:? (?:GLOBAL )?(\S+)", re.IGNORECASE)
"""How torch's restricted unpickler words the name that it refuses."""

AGAIN = "download or copy the file again, from a source you trust"
READER = Path(__file__).with_name("torchscript_pickle.py")
READER_SECONDS = 120
COPY_BYTES = 1 << 20
SHOWN = 5  # names in a message


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors as they lie in their files.

    Attributes:
        tensors: by name, without the prefixes of wrappers; they may be views of the mapped file.
        files: what was read.
        modules: class name of each module, which only a TorchScript archive tells.
        taken_from: key and prefix under which the CLIP lay in its file; empty where it lay open.
    """

    tensors: dict[str, Tensor]
    files: tuple[Path, ...]
    modules: Mapping[str, str] = field(default_factory=dict)
    taken_from: str = ""


def read_weights(path: Path) -> Weights:
    """Read a weights file, or the index of a sharded one.

    Args:
        path: safetensors, `torch.save`, TorchScript or `*.index.json`.

    Returns:
        Tensors on the CPU, in the dtypes of the file.

    Raises:
        UsageError: there is no such file, or it holds other tensors or a second CLIP beside the first.
        IntegrityError: it is damaged, no weights, or holds more than weights.
    """
    return _unwrapped(_read(path), path)


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
        return Weights(_safetensors(path), (path,))
    if start.startswith(b"PK"):
        return _zipped(path)
    if start.startswith(b"\x80"):  # a bare pickle: what torch.save wrote before 1.6
        return _state(_torch_load(path, mapped=False), path)
    raise _damaged(path, found=f"a file that begins with {start[:8]!r}")


def require_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Refuse weights that are not numbers, such as those of a training that diverged.

    Args:
        tensors: by name; of `logit_scale` the exponential counts.
        where: their file, for the message.

    Raises:
        IntegrityError: a value is NaN or infinite.
    """
    for name, tensor in tensors.items():
        value = tensor.exp() if name == "logit_scale" else tensor
        # A sum is as fast as reading and needs no memory; where large numbers overflow it, look at each.
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            raise IntegrityError(
                "the weights are not finite numbers",
                where=f"{where}: {name}",
                found="NaN or infinity",
                fix="take an earlier checkpoint: the training that wrote this one had diverged",
            )


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — no mapping
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, found=str(error)[:200]) from error


def _sharded(index: Path) -> Weights:
    listed = read_json(index).get("weight_map")
    plain = isinstance(listed, dict) and all(
        isinstance(name, str) and name == Path(name).name and name not in ("", "..")
        for name in listed.values()
    )
    if not isinstance(listed, dict) or not plain or not listed:
        raise _damaged(index, found="no weight_map of tensor names to file names in this folder")
    tensors: dict[str, Tensor] = {}
    shards = sorted(set(listed.values()))
    for name in shards:
        shard = index.with_name(name)
        if not shard.is_file():
            raise IntegrityError(
                "a part of the weights is missing",
                where=shard,
                found="no such file",
                expected=f"all {len(shards)} files that {index.name} names",
                fix="copy or download the missing file beside the others",
            )
        part = _read(shard).tensors
        wanted = {tensor for tensor, place in listed.items() if place == name}
        if part.keys() != wanted:
            odd = ", ".join(sorted(part.keys() ^ wanted)[:SHOWN])
            raise _damaged(shard, found=f"not the tensors that {index.name} says: {odd}")
        tensors |= part
    return Weights(tensors, (index, *(index.with_name(name) for name in shards)))


def _zipped(path: Path) -> Weights:
    """Read what `torch.save` wrote, or a TorchScript archive; both are zip files with checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith("/constants.pkl") for name in archive.namelist())
            broken = None if script else archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, zlib.error) as error:
        raise _damaged(path, found=str(error) or type(error).__name__) from error
    if script:
        return _archive(path)
    if broken is not None:
        raise _damaged(path, found=f"a wrong checksum of {broken}")
    return _state(_torch_load(path, mapped=True), path)


def _deepest_tuple(file: Any) -> int:
    """Return how many tuples stand inside each other in one pickle, which is read and not run."""
    stack: list[int] = []
    memo: dict[int, int] = {}
    deepest = 0
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo.get(int(str(argument)), 0))
            continue
        if code.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(str(argument))] = stack[-1]
            continue
        depths, before = [0], code.stack_before
        if pickletools.markobject in before:
            while (depth := stack.pop()) != MARK:
                depths.append(depth)
            before = before[: before.index(pickletools.markobject)]
        depths += [stack.pop() for _ in before]
        depth = MARK if code.name == "MARK" else max(depths) + code.name.startswith("TUPLE")
        stack += [depth] * len(code.stack_after)
        deepest = max(deepest, depth)
    return deepest


def _require_shallow(path: Path, *, zipped: bool) -> None:
    """Refuse tuples without end: torch's reader takes twice the time for each level of a dictionary's key."""
    try:
        # In memory or mapped: a length that is damaged must not make `read` ask for as many bytes.
        if zipped:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                deep = any(_deepest_tuple(io.BytesIO(archive.read(name))) > MAX_TUPLES for name in names)
        else:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
                deep = any(_deepest_tuple(mapped) > MAX_TUPLES for _ in range(PICKLES_OF_A_FILE))
    except (ValueError, IndexError, KeyError, AttributeError, EOFError, OverflowError, zlib.error):
        return  # no pickle: torch says what is wrong with it
    if deep:
        raise _damaged(path, found=f"tuples inside each other, more than {MAX_TUPLES}")


def _torch_load(path: Path, *, mapped: bool) -> Any:
    _require_shallow(path, zipped=mapped)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        told = str(error) or type(error).__name__
        named = _NAMED.search(told)
        if named is None:
            lines = [line.strip() for line in told.splitlines() if "WeightsUnpickler" in line]
            raise _damaged(path, found=(lines or told.splitlines())[0][:200]) from error
        raise IntegrityError(
            "the file holds more than weights, and nothing of it was executed",
            where=path,
            found=f"a reference to {named[1]}",
            expected="tensors by name",
            fix="where you trust the file, save the weights alone: safetensors.torch.save_file of the "
            "state dictionary",
        ) from error


def _state(loaded: Any, path: Path) -> Weights:
    """Find the tensors by name in what was saved: the mapping, its `state_dict`, or the one CLIP in it."""
    key = ""
    if isinstance(loaded, Mapping):
        inside = {str(name): value for name, value in loaded.items() if isinstance(value, Mapping)}
        clips = [name for name, value in inside.items() if _prefixes(value)]
        key = "state_dict" if "state_dict" in inside else "".join(clips[:1])
        if len(clips) > 1 and key != "state_dict":
            raise _not_alone(path, found=f"one each under {', '.join(name[:60] for name in clips[:SHOWN])}")
        loaded = inside.get(key, loaded)
    if not isinstance(loaded, Mapping):
        raise _damaged(path, found=f"a {type(loaded).__name__} instead of tensors by name")
    others = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]
    if others or not loaded:
        raise _damaged(path, found=f"entries that are no tensors: {', '.join(others[:SHOWN])}" * bool(others))
    return Weights({str(name): value for name, value in loaded.items()}, (path,), taken_from=key)


def _prefixes(names: Iterable[object]) -> list[str]:
    """Return what stands before the names of each CLIP, told by the embedding of its texts."""
    found = (_EMBEDDING.fullmatch(str(name)) for name in names)
    return sorted({match["prefix"] for match in found if match})


def _unwrapped(weights: Weights, path: Path) -> Weights:
    """Cut off the prefix that all names share because the model was a part of another when it was saved."""
    plain, prefixes = weights.tensors, _prefixes(weights.tensors)
    if len(prefixes) > 1:
        shown = ", ".join(repr(name[:60]) for name in prefixes[:SHOWN])
        raise _not_alone(path, found=f"one each under {shown}")
    prefix = prefixes[0] if prefixes else ""
    while not prefixes and plain and (wrap := _shared_wrapper(plain, prefix)):
        prefix += wrap
    if others := [name[:60] for name in plain if not name.startswith(prefix)]:
        raise _not_alone(path, found=f"one under {prefix[:60]}, beside {', '.join(others[:SHOWN])}")
    taken = ", ".join(part for part in (weights.taken_from, prefix) if part)
    return replace(
        weights,
        tensors={name.removeprefix(prefix): tensor for name, tensor in plain.items()},
        taken_from=taken,
    )


def _shared_wrapper(names: Iterable[str], prefix: str) -> str:
    shared = (w for w in WRAPPERS if all(name.startswith(prefix + w) for name in names))
    return next(shared, "")


def _archive(path: Path) -> Weights:
    """Read a TorchScript archive: its pickle in a process of its own, its bytes here."""
    # -I: the reader sees neither this folder nor the user's environment, only the standard library.
    command = [sys.executable, "-I", str(READER), str(path.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=READER_SECONDS, check=False)
        told = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise _damaged(path, found="a pickle that its reader could not finish") from error
    if "error" in told:
        raise IntegrityError(
            "the archive holds more than weights, or is damaged; nothing of it was executed",
            where=path,
            found=told["error"],
            expected="the modules and tensors of a TorchScript archive",
            fix=AGAIN,
        )
    return Weights(_tensors(path, told), (path,), told["modules"])


def _tensors(path: Path, told: Mapping[str, Any]) -> dict[str, Tensor]:
    views = told["tensors"]
    wanted = {(key, dtype, elements) for key, dtype, elements, *_ in views.values()}
    try:
        with zipfile.ZipFile(path) as archive:
            storages = {
                (key, dtype, elements): _storage(archive, f"{told['root']}/data/{key}", dtype, elements)
                for key, dtype, elements in sorted(wanted)
            }
        return {
            name: storages[key, dtype, elements].as_strided(shape, stride, offset)
            for name, (key, dtype, elements, offset, shape, stride) in views.items()
        }
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise _damaged(path, found=str(error) or type(error).__name__) from error


def _storage(archive: zipfile.ZipFile, name: str, dtype: str, elements: int) -> Tensor:
    """Read one member, whose checksum `zipfile` verifies at its end."""
    info, kind = archive.getinfo(name), getattr(torch, dtype)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != elements * kind.itemsize:
        raise ValueError(f"{name} has {info.file_size:,} bytes for {elements:,} of {dtype}")
    if elements == 0:
        return torch.empty(0, dtype=kind)
    with archive.open(info) as member:
        return torch.frombuffer(_read_all(member, info.file_size), dtype=kind)


def _read_all(member: IO[bytes], size: int) -> bytearray:
    """Read to the end in pieces: a wrong size in the directory cannot claim memory that no byte fills."""
    data = bytearray()
    while piece := member.read(COPY_BYTES):
        data += piece
    if len(data) != size:
        raise ValueError(f"{len(data):,} bytes instead of {size:,}")
    return data


def _not_alone(path: Path, *, found: str) -> UsageError:
    return UsageError(
        "the file holds more than one CLIP",
        where=path,
        found=found,
        expected="a CLIP alone, or under one key",
        fix="save the state dictionary of the one that is meant: torch.save(clip.state_dict(), PATH)",
    )


def _damaged(path: Path, *, found: str) -> IntegrityError:
    return IntegrityError(
        "the weights cannot be read",
        where=path,
        found=found or "nothing",
        expected="safetensors, a state dictionary of torch.save, or a TorchScript archive, whole",
        fix=AGAIN,
    )
