"""Data sets whose images are arrays in a few large files: MNIST, STL-10, PatchCamelyon, CIFAR.

Reads: IDX files, packed or not; STL-10's binaries; HDF5 through h5py; CIFAR's binaries, or its pickles
(protocol 2, written by Python 2) without running them: beyond plain values they hold NumPy arrays of bytes
only, which are recognized by the names they are written with.
"""

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import MissingPackageError
from diptych.evaluate.tasks.readers import Example, Reader, damaged, need, png, reading
from diptych.models.formats.torchscript_pickle import Call, RefusedError, interpret, is_size

MAX_IDX_BYTES = 2**28  # EMNIST, the largest of its kind, takes 550 MB in ten files
MAX_PICKLE_BYTES = 2**28  # CIFAR-100's training file takes 156 MB
_CIFAR_SHAPE = (3, 32, 32)
_STL_SHAPE = (3, 96, 96)


@dataclass(frozen=True, slots=True)
class IdxReader(Reader):
    """Two IDX files below `folder`, images and class numbers; `split` is `t10k` or `train`."""

    folder: str = ""
    kind: Literal["idx"] = "idx"
    markers: ClassVar = ("{folder}/{split}-labels-idx1-ubyte", "{folder}/{split}-labels-idx1-ubyte.gz")

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / self.folder / f"{split}-images-idx3-ubyte"
        images, labels = _idx(path, 3), _idx(path.with_name(f"{split}-labels-idx1-ubyte"), 1)
        yield from _numbered(images, labels, path)


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    packed = path.with_name(f"{path.name}.gz")
    path = need(path) if path.is_file() or not packed.is_file() else packed
    with reading(path, "a whole file"), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        data = file.read(MAX_IDX_BYTES)
    start = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:start], ">u4").tolist() if len(data) >= start else []
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) - start != math.prod(shape):
        raise damaged(path, f"{data[:4]!r} and {len(data)} bytes", f"an IDX file of {dimensions} dimensions")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


@dataclass(frozen=True, slots=True)
class StlReader(Reader):
    """STL-10: `stl10_binary/SPLIT_X.bin` and `SPLIT_y.bin`; class numbers from 1 in the file."""

    kind: Literal["stl"] = "stl"
    markers: ClassVar = ("stl10_binary/{split}_X.bin", "{split}_X.bin")

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        folder = _below(root, "stl10_binary")
        path, size = folder / f"{split}_X.bin", math.prod(_STL_SHAPE)
        labels = np.fromfile(need(folder / f"{split}_y.bin"), np.uint8).astype(np.int64) - 1
        images = _rows(path, size).reshape(-1, *_STL_SHAPE)
        yield from _numbered(images.transpose(0, 3, 2, 1), labels, path)  # stored column by column


def _rows(path: Path, length: int) -> NDArray[np.uint8]:
    """Map a file of rows of bytes (N, length)."""
    size = need(path).stat().st_size
    if size % length:
        raise damaged(path, f"{size} bytes", f"a multiple of {length:,}")
    rows = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    return rows.reshape(-1, length)


@dataclass(frozen=True, slots=True)
class CifarReader(Reader):
    """CIFAR as its authors publish it, for Python or binary: 10 classes, or CIFAR-100's 100 fine labels."""

    classes: Literal[10, 100] = 10
    kind: Literal["cifar"] = "cifar"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return bool(self._files(root, split))

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        for path in self._files(root, split):
            images, labels = (self._binary if path.suffix == ".bin" else self._pickled)(path)
            for example in _numbered(images.reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1), labels, path):
                yield Example(f"{path.stem}/{example.key}", example.image, example.labels)

    def _files(self, root: Path, split: str) -> list[Path]:
        names = [split]
        folders = {"cifar-100-python": "", "cifar-100-binary": ".bin"}
        if self.classes == 10:
            names = ["test_batch"] if split == "test" else [f"data_batch_{n}" for n in range(1, 6)]
            folders = {"cifar-10-batches-py": "", "cifar-10-batches-bin": ".bin"}
        for folder, suffix in folders.items():
            paths = [_below(root, folder) / f"{name}{suffix}" for name in names]
            if paths[0].is_file():
                return [need(path) for path in paths]
        return []

    def _binary(self, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        before = 1 if self.classes == 10 else 2  # CIFAR-100 has the coarse label first
        rows = _rows(path, before + math.prod(_CIFAR_SHAPE))
        return rows[:, before:], rows[:, before - 1]

    def _pickled(self, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        batch = read_batch(path)
        images, labels = batch.get("data"), batch.get("labels" if self.classes == 10 else "fine_labels")
        are_numbers = isinstance(labels, list) and all(is_size(label) for label in labels)
        if not isinstance(images, np.ndarray) or images.shape[1:] != (3072,) or not are_numbers:
            raise damaged(path, f"keys {sorted(map(str, batch))}", "data and labels of CIFAR")
        return images, np.array(labels, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Hdf5Reader(Reader):
    """PatchCamelyon's HDF5 files, `images` with `x` and `labels` with `y`, in which `{split}` is replaced."""

    images: str
    labels: str
    kind: Literal["hdf5"] = "hdf5"
    markers: ClassVar = ("{images}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = need(root / self.images.format(split=split))
        try:
            import h5py
        except ImportError:
            fix = "pip install 'diptych[hdf5]'"
            raise MissingPackageError("reading HDF5 needs h5py", where=path, fix=fix) from None
        labels_path = need(root / self.labels.format(split=split))
        damage = reading(path, "an HDF5 file with x or y")
        with damage, h5py.File(path, "r") as images, h5py.File(labels_path, "r") as labels:
            yield from _numbered(images["x"], np.asarray(labels["y"]).reshape(-1), path)


def read_batch(path: Path) -> dict[str, Any]:
    """Return what a pickle of CIFAR holds: arrays of bytes, lists and texts by name."""
    if need(path).stat().st_size > MAX_PICKLE_BYTES:
        raise damaged(path, f"{path.stat().st_size} bytes", f"at most {MAX_PICKLE_BYTES}")
    with reading(path, "a table of texts, numbers and byte arrays"):
        batch = interpret(path.read_bytes(), _NAMES.__getitem__)
    if not isinstance(batch, dict):
        raise damaged(path, type(batch).__name__, "a table")
    return {
        str(key): getattr(value, "value", None) if isinstance(value, _Array) else value
        for key, value in batch.items()
    }


class _Array:
    """Stand-in for a NumPy array of bytes, which its state fills."""

    __slots__ = ("value",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_first, data = state
        sizes = isinstance(shape, tuple) and len(shape) <= 2 and all(map(is_size, shape))
        if not sizes or not isinstance(dtype, _Byte) or column_first or not isinstance(data, str):
            raise RefusedError("an array of another kind than bytes")
        if math.prod(shape) != len(data):
            raise RefusedError(f"{len(data)} bytes for an array of {list(shape)}")
        self.value = np.frombuffer(data.encode("latin-1"), np.uint8).reshape(shape)


class _Byte:
    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment mean nothing to single bytes


def _dtype(*arguments: Any) -> _Byte:
    if arguments != ("u1", 0, 1):
        raise RefusedError("an array of another kind than bytes")
    return _Byte()


_NAMES = {
    "numpy.core.multiarray._reconstruct": Call(lambda *_: _Array()),
    "numpy.ndarray": None,
    "numpy.dtype": Call(_dtype),
}


def _numbered(images: Any, labels: NDArray[Any], path: Path) -> Iterator[Example]:
    """Turn (N, H, W) or (N, H, W, 3) uint8, read one at a time, and class numbers (N,) into examples."""
    if len(images) != len(labels):
        raise damaged(path, f"{len(images)} images and {len(labels)} labels", "as many of both")
    for number, label in enumerate(labels.tolist()):
        yield Example(f"{number:08d}", png(np.asarray(images[number])), (int(label),))


def _below(root: Path, folder: str) -> Path:
    """Return the folder that an archive unpacks to, whether the root holds it or is it."""
    return root / folder if (root / folder).is_dir() else root


ArrayReader = IdxReader | StlReader | CifarReader | Hdf5Reader
