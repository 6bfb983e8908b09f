"""Rules for the code: sizes, names, forbidden calls, layers, types, the public API, doctests, README."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "diptych"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(p for name in ("benchmarks", "docs", "experiments") for p in (ROOT / name).rglob("*.py"))
BIN = Path(sys.executable).parent

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_NESTING, MAX_PUBLIC_NAMES = 400, 60, 3, 20
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "manager", "legacy", "types"}

# The names that `from diptych import …` promises. Adding one is a decision, removing one breaks users.
PUBLIC_NAMES = [
    "ClipConfig", "DiptychError", "Loader", "LoaderSettings", "Model", "Preprocess", "ShardSet",
    "Templates", "Tokenizer", "ZeroShotClassifier", "build", "build_classifier", "contrastive_loss",
    "load", "open_source", "pack", "preset", "save",
]  # fmt: skip

# `import diptych` must stay instant: none of these may come with it.
HEAVY = ("torch", "numpy", "PIL", "pyarrow", "transformers", "tokenizers", "rich", "tyro", "regex", "ftfy")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[Any]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith, ast.Match)


def nesting(node: ast.AST) -> int:
    """Return how many blocks stand inside each other below a node; `elif` is no deeper than its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def test_nesting_is_counted_as_meant() -> None:
    code = "def f():\n if a:\n  pass\n elif b:\n  for c in d:\n   with e:\n    pass\n else:\n  pass"
    assert nesting(ast.parse(code).body[0]) == 3


def test_no_file_is_longer_than_a_sitting() -> None:
    checked = [*SOURCES, *SCRIPTS, *(ROOT / "tests").rglob("*.py")]
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in checked}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen_or_nests_deeper_than_three() -> None:
    measured = {
        f"{name_of(path)}:{function.name}": (function.end_lineno - function.lineno + 1, nesting(function))
        for path in [*SOURCES, *SCRIPTS]
        for function in functions(path)
    }
    assert {name: size for name, (size, _) in measured.items() if size > MAX_FUNCTION_LINES} == {}
    assert {name: depth for name, (_, depth) in measured.items() if depth > MAX_NESTING} == {}


def test_every_file_is_named_after_what_it_holds() -> None:
    assert [
        name_of(path) for path in SOURCES if path.stem in BANNED_NAMES or re.search(r"_v\d", path.stem)
    ] == []


FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "tarfile"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "torch.load", "torch.save", "yaml.load", "joblib.load"}


def forbidden(node: ast.AST) -> str:
    """Return the rule that one node breaks, or nothing."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        return next((name for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS), "")
    if not isinstance(node, ast.Call):
        return ""
    called = ast.unparse(node.func)
    options = [ast.unparse(keyword) for keyword in node.keywords]
    if called in FORBIDDEN_CALLS or called.endswith(".extractall"):
        return "" if called == "torch.load" and "weights_only=True" in options else called
    risky = re.compile(r"(shell|allow_pickle|trust_remote_code)=(?!False$)")
    return next(filter(risky.match, options), "")


def test_forbidden_calls_are_recognised() -> None:
    for code in (
        "import pickle", "from tarfile import open", "eval('1')", "torch.load(f)", "run('x', shell=True)",
        "np.load(f, allow_pickle=True)", "archive.extractall()", "yaml.load(f)",
        "torch.load(f, weights_only=flag)",
    ):  # fmt: skip
        assert any(forbidden(node) for node in ast.walk(ast.parse(code))), code
    assert not any(forbidden(node) for node in ast.walk(ast.parse("torch.load(f, weights_only=True)")))


PICKLES = {
    # OpenAI's loader reads nothing but what torch.save wrote.
    ("src/diptych/models/formats/convert.py", "torch.save"),
    # An unpickler whose every name is a stand-in.
    ("src/diptych/models/formats/torchscript_pickle.py", "pickle"),
}


def test_nothing_runs_code_from_data() -> None:
    actual = {
        f"{name_of(path)}:{getattr(node, 'lineno', 0)}": forbidden(node)
        for path in [*SOURCES, *SCRIPTS]
        for node in ast.walk(tree(path))
        if forbidden(node) and (name_of(path), forbidden(node)) not in PICKLES
    }
    assert actual == {}


def writes(node: ast.AST) -> bool:
    """Tell whether a node writes a file past core/files: only what that module writes survives a crash."""
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    if called in ("os.replace", "os.rename", "shutil.move"):
        return True
    if called in ("np.save", "np.savez"):  # into memory is fine
        return "buffer" not in ast.unparse(node.args[0])
    if called.split(".")[-1] in ("write_text", "write_bytes"):
        return "." in called and called.split(".")[-2] != "files"
    if called.split(".")[-1] in ("open", "fdopen"):
        modes = [*node.args, *(keyword.value for keyword in node.keywords)]
        strings = [str(mode.value) for mode in modes if isinstance(mode, ast.Constant)]
        return any(re.fullmatch(r"[wax]b?t?\+?|r\+b?|rb\+", mode) for mode in strings)
    return False


def test_only_core_files_writes_files() -> None:
    actual = [
        f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        for path in SOURCES
        if path != PACKAGE / "core" / "files" / "durable.py"
        for node in ast.walk(tree(path))
        if writes(node)
    ]
    assert actual == []


def test_no_file_knows_one_machine() -> None:
    """A path that exists on one machine only is a bug on every other one."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    folders = "|".join(("work", "root", "home", "Users", "opt", "mnt"))
    machine = re.compile(rf"(?<![\w.\-/$}}])/(?:{folders})/\w")
    actual = []
    for path in [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]:
        text = path.read_bytes().decode("utf-8", "replace")
        actual += [f"{name_of(path)}: {match[0]}" for match in machine.finditer(text)]
    assert actual == []


def test_version_floors_keep_known_holes_out() -> None:
    """torch < 2.10 and Pillow < 12.3 have published vulnerabilities in what this package calls."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = dict(re.findall(r"^(\w+)>=([\d.]+)", "\n".join(project["dependencies"]), flags=re.M))
    assert tuple(map(int, floors["torch"].split("."))) >= (2, 10)
    assert tuple(map(int, floors["pillow"].split("."))) >= (12, 3)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "+cpu" not in pinned and re.search(r"^torch==2\.\d+\.\d+$", pinned, flags=re.M)
    assert all(
        re.fullmatch(r"[\w.\-]+==[\w.]+", line) for line in pinned.splitlines() if not line.startswith("#")
    )


def passes(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_every_import_points_down() -> None:
    passes(str(BIN / "lint-imports"))


def test_mypy_passes() -> None:
    passes(str(BIN / "mypy"))


def test_ruff_passes() -> None:
    passes(str(BIN / "ruff"), "check", ".")
    passes(str(BIN / "ruff"), "format", "--check", ".")


def imported_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    assert imported_by("import diptych") & set(HEAVY) == set()


def test_pairs_are_read_and_packed_without_torch() -> None:
    heavy = ("diptych.data.loader", "diptych.data.near_copies")
    names = [name for name in map(module_of, SOURCES) if name.startswith(("diptych.core", "diptych.data"))]
    free = [name for name in names if not name.startswith(heavy)]
    assert imported_by("\n".join(f"import {name}" for name in free)) & {"torch", "pyarrow"} == set()


def test_the_public_names_are_the_promised_ones() -> None:
    package = importlib.import_module("diptych")
    assert sorted(package.__all__) == sorted(PUBLIC_NAMES)
    assert len(package.__all__) <= MAX_PUBLIC_NAMES
    assert all(getattr(package, name, None) is not None for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))


def test_every_public_name_says_what_it_is() -> None:
    for name in PUBLIC_NAMES:
        docstring = getattr(importlib.import_module("diptych"), name).__doc__
        assert docstring and not docstring.startswith(f"{name}("), name  # which dataclass makes up


@pytest.mark.parametrize("module", [module_of(path) for path in SOURCES])
def test_doctests_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_every_make_target_of_the_docs_exists() -> None:
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.M))
        assert named <= known, name
