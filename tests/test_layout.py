"""The layout of the package: line budgets, folder sizes, cycles of imports, the share of docstrings."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "diptych"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
BUDGET = tomllib.loads((ROOT / "tests" / "line_budget.toml").read_text(encoding="utf-8"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_folder_keeps_its_line_budget() -> None:
    lines: Counter[str] = Counter()
    for path in MODULES.values():
        lines[path.relative_to(PACKAGE).parts[0].removesuffix(".py")] += lines_of(path)
    assert {name: count for name, count in lines.items() if count > BUDGET["lines"].get(name, 0)} == {}
    assert sum(lines.values()) <= BUDGET["all"]["lines"]


def test_there_are_few_files_and_few_in_each_folder() -> None:
    assert len(MODULES) <= BUDGET["all"]["files"]
    entries = Counter(
        path.parent.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.name not in ("__init__.py", "__pycache__", "py.typed") and "__pycache__" not in path.parts
    )
    allowed = BUDGET["entries"]
    assert {name: count for name, count in entries.items() if count > allowed.get(name, 12)} == {}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def imports(name: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports, also for types only and inside functions."""
    for node in nodes(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def graph() -> dict[str, set[str]]:
    return {name: {other for other in imports(name) if other in MODULES} - {name} for name in MODULES}


def folder_graph(files: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return which folder imports from which; a folder and the folders inside it are one place."""
    folders: dict[str, set[str]] = {}
    for name, others in files.items():
        here = name.rpartition(".")[0]
        for other in others:
            there = other.rpartition(".")[0]
            if not f"{here}.".startswith(f"{there}.") and not f"{there}.".startswith(f"{here}."):
                folders.setdefault(here, set()).add(there)
                folders.setdefault(there, set())
    return folders


def cycles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = arrows[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reach = {name: reached(name) for name in arrows}
    inside = [name for name in arrows if name in reach[name]]
    return sorted(map(list, {tuple(other for other in inside if other in reach[name] and name in reach[other])
                             for name in inside}))  # fmt: skip


def test_cycles_are_seen_as_meant() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert cycles(arrows) == [["a", "b", "c"]]


def test_neither_files_nor_folders_import_each_other_in_a_cycle() -> None:
    assert cycles(graph()) == cycles(folder_graph(graph())) == []


def docstring_lines(path: Path) -> int:
    total = 0
    for node in nodes(path):
        body = getattr(node, "body", None)
        for item in body if isinstance(body, list) else ():
            if isinstance(item, ast.Expr) and isinstance(getattr(item.value, "value", None), str):
                total += (item.end_lineno or 0) - item.lineno + 1
    return total


def test_docstrings_keep_their_share() -> None:
    said, lines = (sum(map(count, MODULES.values())) for count in (docstring_lines, lines_of))
    assert said / lines <= BUDGET["all"]["docstring_share"]
