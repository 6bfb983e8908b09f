"""Rename, pack and reshape tensors by rows of data, in both directions, with nothing left over.

A row says which of our tensors make up which of theirs. Reading and writing go through the same rows, so one
is the inverse of the other, and a tensor that no row names is an error.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.towers.config import MAX_LAYERS

SHOWN_NAMES = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One of their tensors.

    Attributes:
        theirs: its name.
        ours: our name, or several: theirs holds them behind one another in its first dimension.
        dimensions: None, or how many ours and theirs have: theirs has more, of size 1, in front.
        transposed: theirs is the transpose of ours, a matrix.
    """

    theirs: str
    ours: tuple[str, ...]
    dimensions: tuple[int, int] | None = None
    transposed: bool = False


def read_rows(
    rows: Iterable[Row], state: Mapping[str, Tensor], *, complete: bool = True
) -> dict[str, Tensor]:
    """Return our tensors by name, floats in float32; those of theirs that are unchanged are shared.

    Args:
        rows: the layout.
        state: their tensors by name.
        complete: refuse missing and left-over tensors here; else `files.parts.Parts.check` does.

    Raises:
        DataError: a tensor is missing or left over, or has another number of dimensions than it should.
    """
    rest, ours, missing = dict(state), {}, []
    for row in rows:
        if row.theirs not in rest:
            missing.append(row.theirs)
            continue
        value = rest.pop(row.theirs).detach()
        value = value.float() if value.is_floating_point() else value
        if row.transposed and value.ndim == 2:
            value = value.t().contiguous()
        if row.dimensions is not None:
            value = _shape(value, row.dimensions[0], row.theirs)
        if len(row.ours) == 1:
            ours[row.ours[0]] = value
            continue
        if value.shape[0] % len(row.ours):
            raise _wrong_shape(row.theirs, value, f"{len(row.ours)} equal parts behind one another")
        for name, part in zip(row.ours, value.chunk(len(row.ours)), strict=True):
            ours[name] = part.clone()
    if complete:
        _require_none("missing", missing)
        _require_none("left over", rest)
    return ours


def write_rows(rows: Iterable[Row], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their tensors by name, on the device and in the dtype of ours; the inverse of `read_rows`.

    Raises:
        DataError: a tensor is missing or left over.
    """
    rest, theirs, missing = dict(state), {}, []
    for row in rows:
        absent = [name for name in row.ours if name not in rest]
        missing += absent
        if absent:
            continue
        parts = [rest.pop(name).detach() for name in row.ours]
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        if row.dimensions is not None:
            value = _shape(value, row.dimensions[1], row.theirs)
        theirs[row.theirs] = (value.t() if row.transposed else value).contiguous()
    _require_none("missing", missing)
    _require_none("left over", rest)
    return theirs


def _shape(value: Tensor, dimensions: int, name: str) -> Tensor:
    shape = list(value.shape)
    while len(shape) > dimensions and shape[0] == 1:
        del shape[0]
    shape = [1] * (dimensions - len(shape)) + shape
    if len(shape) != dimensions:
        raise _wrong_shape(name, value, f"{dimensions} dimensions")
    return value.reshape(shape)


def _wrong_shape(name: str, value: Tensor, expected: str) -> DataError:
    return DataError(
        "a tensor has a wrong shape", where=name, found=str(list(value.shape)), expected=expected
    )


def _require_none(how: str, names: Iterable[str]) -> None:
    listed: Sequence[str] = sorted(names)
    if listed:
        more = f" … ({len(listed)} in all)" if len(listed) > SHOWN_NAMES else ""
        raise DataError(
            f"tensors are {how}",
            found=", ".join(listed[:SHOWN_NAMES]) + more,
            expected="exactly the tensors of the architecture that the configuration describes",
            fix="give weights and configuration of the same model",
        )


# Layers of ours → the name of theirs; several of ours are packed into one.
Layers = Mapping[tuple[str, ...], str]

QKV = ("attn.q_proj", "attn.k_proj", "attn.v_proj")


def layer(ours: tuple[str, ...], theirs: str) -> Iterator[Row]:
    """Yield the rows of one layer: weight and bias."""
    for kind in ("weight", "bias"):
        yield Row(f"{theirs}.{kind}", tuple(f"{name}.{kind}" for name in ours))


def packed(ours: str, theirs: str) -> Iterator[Row]:
    """Yield the rows of torch's nn.MultiheadAttention, which joins kind and name with an underscore."""
    for kind in ("weight", "bias"):
        yield Row(f"{theirs}.in_proj_{kind}", tuple(f"{ours}.{part}.{kind}" for part in QKV))


def layers(ours: str, theirs: str, table: Layers) -> Iterator[Row]:
    """Yield the rows of a table of layers below two names."""
    for names, their_name in table.items():
        yield from layer(tuple(f"{ours}.{name}" for name in names), f"{theirs}.{their_name}")


def blocks(ours: str, theirs: str, table: Layers, count: int) -> Iterator[Row]:
    """Yield the rows of `count` blocks, numbered from 0 on both sides.

    No more than a model may have: a file that claims 10^100 blocks is refused for its size (`check_sizes`).
    """
    for index in range(min(count, MAX_LAYERS)):
        yield from layers(f"{ours}.{index}", f"{theirs}.{index}", table)
