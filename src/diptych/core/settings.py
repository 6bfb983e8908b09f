"""Settings: plain mappings (TOML, JSON, `--set a.b=1`) become frozen dataclasses, checked, and back.

A wrong setting is named with its table; an unknown one with the nearest known.
"""

import copy
import dataclasses
import enum
import functools
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from diptych.core.errors import EnvironmentFault, SettingsError, UnsupportedError, UsageError, nearest
from diptych.core.files.reading import read_text

T = TypeVar("T")

# Settings of earlier versions and what they are called now. Files that a run wrote still load; recipes are
# told the new name.
RENAMED: Mapping[str, str] = {
    "floor_fraction": "min_lr_ratio",
    "gradient_clip": "max_grad_norm",
    "max_bad": "max_bad_fraction",
    "licence": "license",
}

SHOWN_CHARACTERS = 60  # of a wrong value in a message


@dataclasses.dataclass(frozen=True, slots=True)
class _Location:
    where: str
    path: tuple[str, ...] = ()

    def __truediv__(self, name: object) -> "_Location":
        return _Location(self.where, (*self.path, str(name)))

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, ".".join(self.path))))

    def wrong(self, value: object, expected: str) -> SettingsError:
        return SettingsError(
            "a setting has a wrong value", where=self, found=_shown(value), expected=expected
        )


def from_mapping(cls: type[T], mapping: Mapping[str, Any], *, where: object = "") -> T:
    """Build a settings dataclass from plain values.

    Args:
        cls: a dataclass; fields may be dataclasses, tuples, lists, dicts, Optionals, unions, Literals, enums,
            paths. A union of dataclasses is chosen by the Literal `kind` of each, which may be left out for
            the one where that field's metadata says implied.
        mapping: plain values by field name; fields with a default may be missing.
        where: the file or command that they come from, for messages.

    Raises:
        SettingsError: unknown, missing or wrong setting.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Crop:
    ...     size: tuple[int, int]
    ...     flip: bool = False
    >>> from_mapping(Crop, {"size": [64, 64]})
    Crop(size=(64, 64), flip=False)
    """
    built: T = _dataclass(cls, mapping, _Location(str(where)))
    return built


def wrong_type(where: str, value: object, expected: str) -> SettingsError:
    """Build the error for a value of another type; it names the type, not the value."""
    return SettingsError(
        "a setting has a wrong value", where=where, found=type(value).__name__, expected=expected
    )


def to_mapping(settings: Any) -> dict[str, Any]:
    """Turn a settings dataclass into plain values; `from_mapping` gives the equal dataclass back."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; a `SettingsError` names the line that is none."""
    try:
        return tomllib.loads(read_text(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        what, fix = "no such file", "check the path"
        if Path(path).is_dir():
            what, fix = "this is a folder", "give the file itself"
        raise UsageError(what, where=path, expected="a TOML file", fix=fix) from error
    except OSError as error:
        raise EnvironmentFault("cannot read the file", where=path, found=error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError("the file is not TOML", where=path, found=str(error)) from error


def override(mapping: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy with single values replaced, as `--set` gives them.

    Args:
        mapping: plain values, possibly nested.
        assignments: "a.b=1" each; the value is read as TOML, a bare word as a string.

    >>> override({"train": {"steps": 10}}, ["train.steps=20", "train.name=small"])
    {'train': {'steps': 20, 'name': 'small'}}
    """
    changed = copy.deepcopy(dict(mapping))
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        location = _Location("--set", (assignment,))
        if not equals or not name.strip():
            what, fix = "a setting cannot be read", "e.g. --set train.steps=100"
            raise SettingsError(what, where=location, expected="name=value", fix=fix)
        *above, last = name.strip().split(".")
        table: Any = changed
        for part in above:
            table = _step_into(table, part, location)
        if not isinstance(table, dict):
            what, wanted = f"{name!r} is not a setting", "a table above it"
            raise SettingsError(what, where=location, found=_shown(table), expected=wanted)
        table[last] = _toml_value(text.strip())
    return changed


def _step_into(table: Any, part: str, location: _Location) -> Any:
    if isinstance(table, list) and part.isdigit() and int(part) < len(table):
        return table[int(part)]
    if not isinstance(table, dict):
        raise SettingsError(f"{part!r} is not inside a table", where=location, found=_shown(table))
    return table.setdefault(part, {})


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def with_current_names(value: Any) -> Any:
    """Return plain values with the settings of earlier versions under their present names.

    >>> with_current_names({"train": {"gradient_clip": 1.0}})
    {'train': {'max_grad_norm': 1.0}}
    """
    if isinstance(value, Mapping):
        return {RENAMED.get(name, name): with_current_names(item) for name, item in value.items()}
    return [with_current_names(item) for item in value] if isinstance(value, list) else value


def _shown(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return f"{text} ({type(value).__name__})"


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _dataclass(cls: Any, value: Any, location: _Location) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise location.wrong(value, f"a table of {cls.__name__}")
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in value:
        if name not in known:
            guess = nearest(str(name), known)
            fix = f"did you mean {guess!r}?" if guess else ""
            if RENAMED.get(name) in known:
                fix = f"write {RENAMED[name]}: the setting was renamed"
            names = ", ".join(sorted(known))
            raise UnsupportedError(
                "unknown setting", where=location / name, expected=f"one of {names}", fix=fix
            )
    built = {name: _convert(_hints(cls)[name], item, location / name) for name, item in value.items()}
    for name, field in known.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if name not in built and required:
            wanted = _type_name(_hints(cls)[name])
            raise SettingsError("a setting is missing", where=location / name, expected=wanted)
    try:
        return cls(**built)
    except (ValueError, OverflowError) as error:
        raise SettingsError("the settings do not fit together", where=location, found=error) from error


def _convert(wanted: Any, value: Any, location: _Location) -> Any:
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        return _union(get_args(wanted), value, location)
    if origin is Literal:
        return _one_of(get_args(wanted), value, location)
    if origin in (tuple, list, Sequence):
        return _sequence(wanted, value, location)
    if origin in (dict, Mapping):
        return _table(get_args(wanted), value, location)
    if dataclasses.is_dataclass(wanted):
        return _dataclass(wanted, value, location)
    return _scalar(wanted, value, location)


def _scalar(wanted: Any, value: Any, location: _Location) -> Any:
    if wanted is Any:
        return value
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        chosen = _one_of(tuple(member.value for member in wanted), value, location)
        return wanted(chosen)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    # bool is an int to Python, but `steps = true` is a mistake.
    fits = value is None if wanted in (None, types.NoneType) else isinstance(value, wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise location.wrong(value, _type_name(wanted))
    return value


def _one_of(allowed: tuple[Any, ...], value: Any, location: _Location) -> Any:
    for choice in allowed:
        if choice == value and type(choice) is type(value):
            return choice
    names = [choice for choice in allowed if isinstance(choice, str)]
    guess = nearest(value, names) if isinstance(value, str) else None
    fits = any(type(choice) is type(value) for choice in allowed)
    raise (UnsupportedError if fits else SettingsError)(
        "a setting has a wrong value",
        where=location,
        found=_shown(value),
        expected=f"one of {', '.join(repr(choice) for choice in allowed)}",
        fix=f"did you mean {guess!r}?" if guess else "",
    )


def _sequence(wanted: Any, value: Any, location: _Location) -> Any:
    if not isinstance(value, list | tuple):
        raise location.wrong(value, _type_name(wanted))
    inner = get_args(wanted)
    fixed = get_origin(wanted) is tuple and inner[-1:] != (...,)
    if fixed and len(value) != len(inner):
        raise location.wrong(value, f"{len(inner)} values")
    members = inner if fixed else inner[:1] * len(value)
    items = [
        _convert(member, item, location / index)
        for index, (member, item) in enumerate(zip(members, value, strict=True))
    ]
    return items if get_origin(wanted) is list else tuple(items)


def _table(inner: tuple[Any, ...], value: Any, location: _Location) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise location.wrong(value, "a table")
    member = inner[1] if inner else Any
    return {str(name): _convert(member, item, location / name) for name, item in value.items()}


def _union(members: tuple[Any, ...], value: Any, location: _Location) -> Any:
    if value is None or (value == "none" and str not in members):
        # TOML has no null: `--set a.b=none` says it.
        if types.NoneType in members:
            return None
        raise location.wrong(value, " or ".join(_type_name(member) for member in members))
    rest = [member for member in members if member is not types.NoneType]
    classes = [member for member in rest if dataclasses.is_dataclass(member)]
    if classes and isinstance(value, Mapping):
        return _dataclass(_by_kind(classes, value, location), value, location)
    exact = [member for member in rest if member is type(value)]
    for member in exact + rest:
        try:
            return _convert(member, value, location)
        except SettingsError:
            if len(rest) == 1:
                raise
    raise location.wrong(value, " or ".join(_type_name(member) for member in members))


def _by_kind(classes: list[Any], value: Mapping[str, Any], location: _Location) -> Any:
    if len(classes) == 1:
        return classes[0]
    kinds = {kind: cls for cls in classes for kind in get_args(_hints(cls)["kind"])}
    if "kind" in value:
        return kinds[_one_of(tuple(kinds), value["kind"], location / "kind")]
    for cls in classes:
        if cls.__dataclass_fields__["kind"].metadata.get("implied"):
            return cls
    expected = f"one of {', '.join(map(repr, kinds))}"
    raise SettingsError("a setting is missing", where=location / "kind", expected=expected)


def _type_name(wanted: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", Path: "a path"}
    if wanted in (None, types.NoneType):
        return "none"
    if get_origin(wanted) is Literal:
        return f"one of {', '.join(repr(choice) for choice in get_args(wanted))}"
    if get_origin(wanted) is not None:
        return str(wanted).replace("typing.", "")
    return names.get(wanted) or str(getattr(wanted, "__name__", wanted))
