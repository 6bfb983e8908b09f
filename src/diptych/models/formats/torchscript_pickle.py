"""Read a pickle without running what it says: of TorchScript archives, and of data sets (CIFAR).

A pickle is a program. Python's unpickler runs it, but what it may name comes from a table of stand-ins that
only record; any other name or instruction is refused, and nothing is imported. Needs no torch.

Source: Python's `pickletools`; PyTorch's `csrc/jit/serialization/pickler.cpp` for TorchScript's names.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

MAX_PICKLE_BYTES = 4 * 2**20  # the largest published archive's takes less than 1 MiB; 64 bytes of memory each
MAX_TUPLE_ITEMS = 10_000  # of a tuple and those inside it, which is what its hash costs; a tensor's are 20
MAX_DEPTH = 32  # modules in modules
MAX_DIMENSIONS = 8
MAX_NAMES = 100_000  # modules and tensors; RN50x64, the largest of OpenAI's, has some 2,000
SHOWN_CHARACTERS = 80  # of a name in a message

# What TorchScript writes; the others, such as EXT1 and STACK_GLOBAL, are not needed.
_WRITTEN = (
    "PROTO STOP MARK POP GLOBAL REDUCE NEWOBJ BUILD BINPERSID NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 "
    "LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST "
    "APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET"
)
INSTRUCTIONS = frozenset(_WRITTEN.split())
DTYPES = {
    "Half": "float16", "BFloat16": "bfloat16", "Float": "float32", "Double": "float64", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip


class RefusedError(ValueError):
    """The pickle is damaged, or holds something that its kind does not need."""


class Storage(NamedTuple):
    """Bytes in the archive: the member's number, the elements' type and count."""

    key: str
    dtype: str
    elements: int


class View(NamedTuple):
    """A tensor: a window on a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Call(NamedTuple):
    """A stand-in for a function. Unlike a function, it has no attributes that a pickle could set."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Return what stands for the result."""
        return self.function(*arguments)


class Module:
    """A stand-in for a module of TorchScript: its attributes; the name of its class is that of the type."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        raise RefusedError("a class is called")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise RefusedError(f"a state that is a {type(state).__name__}")
        self.state = state


def interpret(data: bytes, stand_in: Callable[[str], Any] | None = None) -> Any:
    """Return what the pickle holds, made of plain values and stand-ins; anything else is a RefusedError.

    `stand_in` gives what a dotted name stands for, or raises KeyError; None: that of TorchScript.
    """
    try:
        if largest_tuple(io.BytesIO(data), INSTRUCTIONS) > MAX_TUPLE_ITEMS:
            raise RefusedError("tuples inside each other without end")
        return _Unpickler(data, stand_in or _of_torchscript).load()
    except RefusedError:
        raise
    except Exception as error:  # whatever a damaged pickle makes the unpickler trip over
        raise RefusedError(f"no pickle: {error}"[:200]) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, stand_in: Callable[[str], Any]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin-1")
        self._stand_in = stand_in

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._stand_in(f"{module}.{name}")
        except KeyError:
            raise RefusedError(f"the pickle names {module}.{name}"[:SHOWN_CHARACTERS]) from None

    def persistent_load(self, reference: Any) -> Storage:
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise RefusedError("a reference that is no storage")
        _, dtype, key, _, elements = reference
        known = isinstance(dtype, str) and dtype in DTYPES.values()
        if not known or not isinstance(key, str) or not key.isdecimal() or not is_size(elements):
            raise RefusedError("a storage of unknown type, without number or size")
        return Storage(key, dtype, elements)


def _of_torchscript(name: str) -> Any:
    if name.startswith("__torch__."):
        return type(name.rpartition(".")[2][:SHOWN_CHARACTERS], (Module,), {"__slots__": ()})
    return _TORCHSCRIPT[name]


def _view(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> View:
    sizes = (*shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    fits = isinstance(storage, Storage) and all(map(is_size, (offset, *sizes)))
    if not fits or len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        raise RefusedError("a tensor without storage, shape or stride")
    if math.prod(shape):
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last >= storage.elements or math.prod(shape) > storage.elements:
            raise RefusedError("a tensor that reaches beyond its storage")
    return View(storage, offset, shape, stride)


_FIRST = Call(lambda value, *_: value)  # a parameter is its tensor; a typed list is the list
_TORCHSCRIPT: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": Call(_view),
    "torch._utils._rebuild_parameter": _FIRST,
    "torch.jit._pickle.restore_type_tag": _FIRST,
    **{f"torch.jit._pickle.build_{kind}list": _FIRST for kind in ("int", "double", "bool", "tensor")},
    "collections.OrderedDict": Call(dict),
    **{f"torch.{kind}Storage": dtype for kind, dtype in DTYPES.items()},
}


def is_size(value: Any) -> bool:
    """Tell whether a value is a whole number from 0 that fits 64 bits."""
    return type(value) is int and 0 <= value < 2**62


def largest_tuple(file: Any, allowed: frozenset[str] | None = None) -> int:
    """Return how many items the largest tuple of a pickle has, with those of the tuples inside it.

    The pickle is scanned and not run. Sixty pairs inside each other are 300 bytes and have 2^60 items, all of
    which are hashed where the tuple is the key of a dictionary.

    Args:
        file: one that can be read; it stands behind the pickle afterwards.
        allowed: instructions; others are refused, and numbers of the memo that Python's own never has, which
            would claim memory. None: all.
    """
    stack: list[int] = []  # items of each value; 0 stands for a mark
    memo: dict[int, int] = {}
    largest = 0
    for code, argument, position in pickletools.genops(file):
        if allowed is not None and code.name not in allowed:
            raise RefusedError(f"the instruction {code.name} at byte {position}")
        if code.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo.get(int(str(argument)), 1))
            continue
        if code.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if argument is None else int(str(argument))
            if allowed is not None and number > (position or 0):
                raise RefusedError(f"the number {number} of a value at byte {position}")
            memo[number] = stack[-1]
            continue
        sizes, before = [1], code.stack_before
        if pickletools.markobject in before:
            while (size := stack.pop()) != 0:
                sizes.append(size)
            before = before[: before.index(pickletools.markobject)]
        sizes += [stack.pop() for _ in before]
        size = 0 if code.name == "MARK" else sum(sizes) if code.name.startswith("TUPLE") else 1
        stack += [size] * len(code.stack_after)
        largest = max(largest, size)
    return largest


def read_archive(archive: zipfile.ZipFile) -> tuple[str, dict[str, View], dict[str, str]]:
    """Return the root of an archive, where its tensors lie by name, and the class name of each module."""
    names = [info for info in archive.infolist() if info.filename.count("/") == 1]
    pickles = [info for info in names if info.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedError("not one data.pkl")
    if pickles[0].file_size > MAX_PICKLE_BYTES or pickles[0].compress_type != zipfile.ZIP_STORED:
        raise RefusedError(f"a data.pkl of {pickles[0].file_size:,} bytes, or a packed one")
    root = interpret(archive.read(pickles[0]))
    if not isinstance(root, Module):
        raise RefusedError(f"the pickle holds {type(root).__name__}, not a module")
    found = list(_walk(root))
    tensors = {name: value for name, value in found if isinstance(value, View)}
    modules = {name: type(value).__name__ for name, value in found if isinstance(value, Module)}
    return pickles[0].filename.partition("/")[0], tensors, modules


def _walk(root: Module) -> Iterator[tuple[str, Module | View]]:
    """Yield the dotted name of every module and tensor, each module once per place."""
    waiting = [("", root, 0)]
    seen = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        state = getattr(module, "state", {})
        seen += 1 + len(state)
        if depth > MAX_DEPTH or seen > MAX_NAMES:
            raise RefusedError("modules inside each other without end")
        yield prefix, module
        for key, value in state.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if isinstance(value, Module):
                waiting.append((name, value, depth + 1))
            elif isinstance(value, View):
                yield name, value
