"""The words of the code: names and prose use the field's terms and US spelling."""

import io
import re
import tokenize
from pathlib import Path

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


def test_names_are_the_fields_own() -> None:
    actual = set()
    for path in SOURCES:
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        names = {token.string for token in tokens if token.type == tokenize.NAME}
        actual |= {(path.name, name) for name in names if PRIVATE.search(name.lower())}
    assert actual == set()


def test_prose_has_us_spelling() -> None:
    texts = {path.name: SPELLED.sub("", CODE.sub("", path.read_text("utf-8"))) for path in (*SOURCES, *PAGES)}
    lines = [(name, line) for name, text in texts.items() for line in text.splitlines()]
    assert [line for line in lines if BRITISH.search(line[1])] == []
