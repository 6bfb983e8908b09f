"""Read the pickle of a TorchScript archive as inert records: nothing it names is imported, called or built.

A pickle is a program. This is an interpreter for the few instructions that TorchScript writes; classes become
names, calls become records of what would have been called, and any other name or instruction is refused. It
runs as a script in a process of its own with limits on memory and time, so that a hostile archive costs its
reader an error message.

Usage: python -I torchscript_pickle.py ARCHIVE. Writes one JSON object to stdout: `tensors` (where each one
lies in the archive) and `modules` (the class name of each module), or `error`.

Source: Python's `pickletools` for the instructions; PyTorch's `csrc/jit/serialization/pickler.cpp` for the
dialect. Standard library only, because it starts alone.
"""

import contextlib
import json
import math
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_PICKLE_BYTES = 16 * 2**20  # the largest published archive's takes less than 1 MiB
MAX_MEMORY_BYTES = 2 * 2**30
MAX_SECONDS = 60
MAX_DEPTH = 32  # modules in modules
MAX_DIMENSIONS = 8
MAX_NAMES = 100_000  # modules and tensors; RN50x64, the largest of OpenAI's, has some 2,000
SHOWN_CHARACTERS = 80  # of a name in a message

CLASSES = "__torch__."
REBUILD_TENSOR, REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ORDERED_DICT, RESTORE_TYPE = "collections.OrderedDict", "torch.jit._pickle.restore_type_tag"
BUILD_LIST = tuple(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor"))
FUNCTIONS = (REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT, RESTORE_TYPE, *BUILD_LIST)
DTYPES = {
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


class RefusedError(ValueError):
    """The pickle holds something that TorchScript's weights do not need."""


@dataclass(frozen=True)
class Name:
    """What a class or function is called; it is never looked up."""

    text: str


@dataclass
class Record:
    """A module: the name of its class and its attributes."""

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """Bytes in the archive: the member's number, the elements' type and count."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True)
class View:
    """A tensor: a window on a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def shown(value: Any) -> str:
    """Return a name, or the type of anything else: 60 nested pairs have 2^60 elements, and are 500 bytes."""
    return value.text[:SHOWN_CHARACTERS] if isinstance(value, Name) else f"a {type(value).__name__}"


MARK = object()


class Machine:
    """The stack, the memo, and one method per kind of instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Take the top of the stack."""
        if not self.stack:
            raise RefusedError("an instruction finds nothing to work on")
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        items: list[Any] = []
        while (item := self.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def push_name(self, argument: Any) -> None:
        """Push the name of a class or function, if it is a known one."""
        name = str(argument).replace(" ", ".")
        if not name.startswith(CLASSES) and name not in FUNCTIONS and name not in DTYPES:
            raise RefusedError(f"the pickle names {shown(Name(name))}")
        self.stack.append(Name(name))

    def make_tuple(self, length: int) -> None:
        """Make a tuple of the top of the stack."""
        items = [self.pop() for _ in range(length)]
        self.stack.append(tuple(items[::-1]))

    def set_items(self, items: list[Any]) -> None:
        """Set keys and values of the table on top."""
        target = self.pop()
        if not isinstance(target, dict) or len(items) % 2 or any(not _is_key(key) for key in items[::2]):
            raise RefusedError("items are set on something that is no table")
        target.update(zip(items[::2], items[1::2], strict=True))
        self.stack.append(target)

    def append(self, items: list[Any]) -> None:
        """Append to the list on top."""
        target = self.pop()
        if not isinstance(target, list):
            raise RefusedError("items are appended to something that is no list")
        target.extend(items)
        self.stack.append(target)

    def new(self) -> None:
        """Push a record in place of a new object."""
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, Name) or not name.text.startswith(CLASSES) or arguments != ():
            raise RefusedError(f"an object is made of {shown(name)}")
        self.stack.append(Record(name.text))

    def build(self) -> None:
        """Give the record below its state."""
        state, record = self.pop(), self.pop()
        if not isinstance(record, Record) or not isinstance(state, dict):
            raise RefusedError(f"a state is given to {type(record).__name__}")
        record.state = state
        self.stack.append(record)

    def persistent(self) -> None:
        """Push a storage in place of a reference to one."""
        told = self.pop()
        if not (isinstance(told, tuple) and len(told) == 5 and told[0] == "storage"):
            raise RefusedError("a reference that is no storage")
        _, kind, key, _, elements = told
        if not isinstance(kind, Name) or kind.text not in DTYPES:
            raise RefusedError(f"a storage of unknown type {shown(kind)}")
        if not isinstance(key, str) or not key.isdecimal() or not is_size(elements):
            raise RefusedError("a storage without number or size")
        self.stack.append(Storage(key, DTYPES[kind.text], elements))

    def call(self) -> None:
        """Push what a call stands for."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or function.text not in FUNCTIONS:
            raise RefusedError(f"the pickle calls {shown(function)}")
        if not isinstance(arguments, tuple):
            raise RefusedError("a call without a tuple of arguments")
        self.stack.append(_result(function.text, arguments))


def _result(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what the call stands for, without calling anything."""
    if name == REBUILD_TENSOR and len(arguments) >= 4:
        return _view(*arguments[:4])
    if name == ORDERED_DICT and not arguments:
        return {}
    if name != REBUILD_TENSOR and name != ORDERED_DICT and arguments:
        return arguments[0]  # a parameter is its tensor; a typed list is the list
    raise RefusedError(f"{name} with {len(arguments)} arguments")


def _view(storage: Any, offset: Any, shape: Any, stride: Any) -> View:
    sizes = (*shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    fits = isinstance(storage, Storage) and all(map(is_size, (offset, *sizes)))
    if not fits or len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        raise RefusedError("a tensor without storage, shape or stride")
    if math.prod(shape):
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last >= storage.elements or math.prod(shape) > storage.elements:
            raise RefusedError("a tensor that reaches beyond its storage")
    return View(storage, offset, shape, stride)


def is_size(value: Any) -> bool:
    """Tell whether a value is a whole number from 0 that fits 64 bits."""
    return type(value) is int and 0 <= value < 2**62


def _is_key(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING"}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: MARK,
}
ACTIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": lambda _machine, _: None,
    "POP": lambda machine, _: machine.pop(),
    "GLOBAL": lambda machine, argument: machine.push_name(argument),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.to_mark())),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "NEWOBJ": lambda machine, _: machine.new(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
    "REDUCE": lambda machine, _: machine.call(),
    "BINPUT": lambda machine, place: machine.memo.__setitem__(place, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, place: machine.memo.__setitem__(place, machine.stack[-1]),
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
}


def interpret(data: bytes, machine: Machine | None = None) -> Any:
    """Return what the pickle holds, made of plain values, `Record` and `View`.

    Args:
        data: the pickle.
        machine: one that knows other names; that of TorchScript's weights by default.

    Raises:
        RefusedError: an instruction or a name that the machine does not know.
    """
    machine = Machine() if machine is None else machine
    try:
        for instruction, argument, place in pickletools.genops(data):
            name = instruction.name
            if name == "STOP":
                return machine.pop()
            if name in CONSTANTS:
                machine.stack.append(CONSTANTS[name]())
            elif name in PLAIN:
                machine.stack.append(argument)
            elif name in ACTIONS:
                ACTIONS[name](machine, argument)
            else:
                raise RefusedError(f"the instruction {name} at byte {place}")
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise (
            error if isinstance(error, RefusedError) else RefusedError(f"no pickle: {error}"[:200])
        ) from error
    raise RefusedError("the pickle has no end")


def walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name of every module and tensor below a record, each module once per place."""
    open_records: list[tuple[str, Any, int]] = [("", root, 0)]
    seen = 0
    while open_records:
        prefix, record, depth = open_records.pop()
        seen += 1 + len(record.state)
        if depth > MAX_DEPTH or seen > MAX_NAMES:
            raise RefusedError("modules inside each other without end")
        yield prefix, record
        for key, value in record.state.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if isinstance(value, Record):
                open_records.append((name, value, depth + 1))
            elif isinstance(value, View):
                yield name, value


def describe(path: str) -> dict[str, Any]:
    """Return where the tensors of an archive lie and what its modules are called.

    Raises:
        RefusedError: the archive holds more than weights, or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = [info for info in archive.infolist() if info.filename.count("/") == 1]
        found = [info for info in names if info.filename.endswith("/data.pkl")]
        if len(found) != 1:
            raise RefusedError("not one data.pkl")
        if found[0].file_size > MAX_PICKLE_BYTES or found[0].compress_type != zipfile.ZIP_STORED:
            raise RefusedError(f"a data.pkl of {found[0].file_size:,} bytes, or a packed one")
        root = interpret(archive.read(found[0]))
    if not isinstance(root, Record):
        raise RefusedError(f"the pickle holds {type(root).__name__}, not a module")
    tensors: dict[str, Any] = {}
    modules: dict[str, str] = {}
    for name, value in walk(root):
        if isinstance(value, Record):
            modules[name] = value.name.rpartition(".")[2]
        else:
            view = [value.storage.key, value.storage.dtype, value.storage.elements]
            tensors[name] = [*view, value.offset, list(value.shape), list(value.stride)]
    return {"root": found[0].filename.partition("/")[0], "tensors": tensors, "modules": modules}


def limit_this_process() -> None:
    """Bound memory and time, and forbid writing files, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    limit_this_process()
    try:
        told = describe(sys.argv[1])
    except (RefusedError, zipfile.BadZipFile, OSError, EOFError, MemoryError, NotImplementedError) as error:
        told = {"error": str(error) or type(error).__name__}
    sys.stdout.write(json.dumps(told))
