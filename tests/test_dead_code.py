"""Every function, class and constant of the package is used by the package or listed as public."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "diptych"

REACHED_FROM_OUTSIDE = {
    "operations": "failpoints: tests count the durable steps",
    "find_class": "Python's unpickler calls it",
    "persistent_load": "Python's unpickler calls it",
    "guessed": "named in recipes as `diptych.curate.language:guessed`",
    "predict_proba": "scikit-learn calls it",
    "preprocess_images": "public: pixels of a model",
    "numerics": "public: the engine of matrix products, chosen for a block",
}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def without_docstrings(module: ast.Module) -> ast.Module:
    for node in ast.walk(module):
        if isinstance(node, ast.Module | Definition):
            node.body = [
                item
                for item in node.body
                if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
            ]
    return module


def uses(tree: ast.AST) -> Iterator[str]:
    """Yield every word of a tree that can name something; an import alone does not count."""
    for node in ast.walk(tree):
        match node:
            case ast.Name():
                yield node.id
            case ast.Attribute():
                yield node.attr
            case ast.keyword():
                yield node.arg or ""
            case ast.Constant(value=str() as text):
                yield from text.replace(".", " ").replace(":", " ").split()


def definitions(module: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield functions, classes, methods and constants of a module with their names."""
    for node in module.body:
        inside = node.body if isinstance(node, ast.ClassDef) else []
        for item in (node, *inside):
            if isinstance(item, Definition):
                yield item.name, item
            elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name) and item is node:
                yield item.targets[0].id, item


def unreached(modules: dict[str, ast.Module]) -> list[str]:
    total = Counter(word for module in modules.values() for word in uses(module))
    return [
        f"{name}: {word}"
        for name, module in modules.items()
        for word, node in definitions(module)
        if not word.startswith("__") and total[word] <= Counter(uses(node))[word]
    ]


def test_what_nobody_uses_is_noticed() -> None:
    functions = "def used():\n  'dead'\n  return 1\ndef dead():\n  return dead() + used()\n"
    code = "LIMIT = 3\n" + functions + "class A:\n  def m(self): ..."
    assert unreached({"a": without_docstrings(ast.parse(code))}) == ["a: LIMIT", "a: dead", "a: A", "a: m"]


def test_everything_in_the_package_is_reached() -> None:
    modules = {
        path.relative_to(PACKAGE).as_posix(): without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    names = [entry for entry in unreached(modules) if entry.split(": ")[1] not in REACHED_FROM_OUTSIDE]
    assert names == []
