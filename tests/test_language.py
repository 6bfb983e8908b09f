"""The words of the code: names and prose use the field's terms and US spelling."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PRIVATE = re.compile(
    r"(?<![a-z])(masthead|colophon|crew|workshop|exam|learner|stepper|sittings|whereabouts|strangers?|likeness|"
    r"twins|quartets|rivals|heed|verdict|judged|told|said|pictures?)(?![a-z])"
)
"""Words that the code once had for itself, and "picture", which the field calls an image."""
BRITISH = re.compile(
    r"colour|centre|grey|licence|behaviour|neighbour|favour|labelled|"
    r"(?:normal|optim|minim|initial|recogn|regular|serial)is[ei]"
)
SPELLED = re.compile(r"unlabelled|[`'\"]licences?[`'\"]|[\"(]grey|teal, grey|`men grey t-shirt`")
"""Spellings that stand in files: keys of results, captions, old manifests."""
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_names_are_the_fields_own(path: Path) -> None:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    assert [name for name in sorted(names) if PRIVATE.search(name.lower())] == []


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_has_us_spelling(path: Path) -> None:
    text = SPELLED.sub("", CODE.sub("", path.read_text(encoding="utf-8")))
    assert [line for line in text.splitlines() if BRITISH.search(line)] == []
