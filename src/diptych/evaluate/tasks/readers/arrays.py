"""Data sets whose images are arrays in a few large files: MNIST, STL-10, PatchCamelyon, CIFAR.

Reads: IDX files, packed or not; STL-10's binaries; CIFAR's binaries, or its pickles without running them (see
arrays_pickle); HDF5 through h5py.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import MissingPackageError
from diptych.evaluate.tasks.readers.arrays_pickle import read_batch
from diptych.evaluate.tasks.readers.examples import Example, Unnamed, damaged, need, png
from diptych.models.files.torchscript_pickle import is_size

_MAX_IDX_BYTES = 2**28  # EMNIST, the largest of its kind, takes 550 MB in ten files
_CIFAR_SHAPE = (3, 32, 32)
_STL_SHAPE = (3, 96, 96)


@dataclass(frozen=True, slots=True)
class IdxReader(Unnamed):
    """Two IDX files: images and class numbers.

    Attributes:
        folder: where they lie below the root, if not in it.
        kind: names this reader in a row.
    """

    folder: str = ""
    kind: Literal["idx"] = "idx"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return any(_packed_or_not(root / self.folder / f"{split}-labels-idx1-ubyte"))

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by number; `split` is `t10k` or `train`; see Reader.

        Raises:
            IntegrityError: a file is damaged.
        """
        images, path = _idx(root / self.folder / f"{split}-images-idx3-ubyte", 3)
        labels, _ = _idx(root / self.folder / f"{split}-labels-idx1-ubyte", 1)
        yield from numbered(images, labels, path)


@dataclass(frozen=True, slots=True)
class StlReader(Unnamed):
    """STL-10: `stl10_binary/SPLIT_X.bin` and `SPLIT_y.bin`; class numbers from 1 in the file."""

    kind: Literal["stl"] = "stl"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (_below(root, "stl10_binary") / f"{split}_X.bin").is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by number; see Reader.

        Raises:
            IntegrityError: a file is damaged.
        """
        folder = _below(root, "stl10_binary")
        path = need(folder / f"{split}_X.bin")
        labels = np.fromfile(need(folder / f"{split}_y.bin"), np.uint8).astype(np.int64) - 1
        if path.stat().st_size % int(np.prod(_STL_SHAPE)):
            raise damaged(path, f"{path.stat().st_size} bytes", "a multiple of 27,648")
        if not path.stat().st_size:
            return
        images = np.memmap(path, np.uint8, "r").reshape(-1, *_STL_SHAPE)
        yield from numbered(images.transpose(0, 3, 2, 1), labels, path)  # stored column by column


@dataclass(frozen=True, slots=True)
class CifarReader(Unnamed):
    """CIFAR as its authors publish it: for Python or as binary.

    Attributes:
        classes: 10, or 100 for the fine labels of CIFAR-100.
        kind: names this reader in a row.
    """

    classes: Literal[10, 100] = 10
    kind: Literal["cifar"] = "cifar"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return bool(self._files(root, split))

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield file by file; see Reader.

        Raises:
            IntegrityError: a file is damaged, or does more than hold arrays.
        """
        for path in self._files(root, split):
            images, labels = (self._binary if path.suffix == ".bin" else self._pickled)(path)
            for example in numbered(images.reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1), labels, path):
                yield Example(f"{path.stem}/{example.key}", example.image, example.labels)

    def _files(self, root: Path, split: str) -> list[Path]:
        names = [split]
        if self.classes == 10:
            names = ["test_batch"] if split == "test" else [f"data_batch_{n}" for n in range(1, 6)]
        for below, suffix in (("py", ""), ("bin", ".bin")):
            long = {"py": "python", "bin": "binary"}[below]
            folder = _below(root, f"cifar-10-batches-{below}" if self.classes == 10 else f"cifar-100-{long}")
            paths = [folder / f"{name}{suffix}" for name in names]
            if paths[0].is_file():
                return [need(path) for path in paths]
        return []

    def _binary(self, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        before = 1 if self.classes == 10 else 2  # CIFAR-100 has the coarse label first
        rows = np.fromfile(path, np.uint8)
        length = before + int(np.prod(_CIFAR_SHAPE))
        if rows.size % length:
            raise damaged(path, f"{rows.size} bytes", f"a multiple of {length}")
        rows = rows.reshape(-1, length)
        return rows[:, before:], rows[:, before - 1]

    def _pickled(self, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        batch = read_batch(path)
        images, labels = batch.get("data"), batch.get("labels" if self.classes == 10 else "fine_labels")
        if not isinstance(images, np.ndarray) or images.shape[1:] != (3072,) or not _are_numbers(labels):
            raise damaged(path, f"keys {sorted(map(str, batch))}", "data and labels of CIFAR")
        return images, np.array(labels, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Hdf5Reader(Unnamed):
    """PatchCamelyon's HDF5 files, one with pictures (`x`) and one with labels (`y`) for each split.

    Attributes:
        images, labels: the files; `{split}` is replaced.
        kind: names this reader in a row.
    """

    images: str
    labels: str
    kind: Literal["hdf5"] = "hdf5"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (root / self.images.format(split=split)).is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by number; see Reader.

        Raises:
            MissingPackageError: h5py is not installed.
            IntegrityError: a file is damaged.
        """
        path = need(root / self.images.format(split=split))
        try:
            import h5py
        except ImportError:
            raise MissingPackageError(
                "reading HDF5 needs h5py", where=path, fix="pip install 'diptych[hdf5]'"
            ) from None
        try:
            with (
                h5py.File(path, "r") as images,
                h5py.File(need(root / self.labels.format(split=split)), "r") as labels,
            ):
                yield from numbered(images["x"], np.asarray(labels["y"]).reshape(-1), path)
        except (OSError, KeyError) as error:
            raise damaged(path, str(error)[:120], "an HDF5 file with x or y") from None


def numbered(images: Any, labels: NDArray[Any], path: Path) -> Iterator[Example]:
    """Turn arrays into examples.

    Args:
        images: (N, H, W) or (N, H, W, 3) uint8, read one at a time.
        labels: (N,) class numbers.
        path: the file, for the error.

    Raises:
        IntegrityError: there are not as many labels as images.
    """
    if len(images) != len(labels):
        raise damaged(path, f"{len(images)} pictures and {len(labels)} labels", "as many of both")
    for number, label in enumerate(labels.tolist()):
        yield Example(f"{number:08d}", png(np.asarray(images[number])), (int(label),))


def _are_numbers(labels: Any) -> bool:
    return isinstance(labels, list) and all(is_size(label) for label in labels)


def _below(root: Path, folder: str) -> Path:
    """Return the folder that an archive unpacks to, whether the root holds it or is it."""
    return root / folder if (root / folder).is_dir() else root


def _packed_or_not(path: Path) -> list[Path]:
    return [p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()]


def _idx(path: Path, dimensions: int) -> tuple[NDArray[np.uint8], Path]:
    found = (_packed_or_not(path) or [need(path)])[0]
    try:
        with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
            data = file.read(_MAX_IDX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(found, str(error)) from None
    start = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:start], ">u4").tolist() if len(data) >= start else []
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise damaged(found, f"{data[:4]!r} and {len(data)} bytes", f"an IDX file of {dimensions} dimensions")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape), found
