"""Prompt sets of known data sets: templates, cleaned class names, and what the data set's files call a class.

Class names stand in the order of the data set's class numbers. A class has one name or several; its label is
what folders and annotations call it, where that is not its name.

Reads: `templates/NAME.toml` beside this file, or a file of the user's in the same form: `source`, `license`,
`templates`, `class_names` (names, or lists of names), `labels`, and `of`: another set, of which this one has
the classes with these labels.
Source: Radford et al. 2021, section 3.1.4.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from diptych.core.errors import SettingsError, unknown_name
from diptych.core.settings import from_mapping, load_toml
from diptych.data.sources.rows import anchored
from diptych.evaluate.prompts.templates import Templates, load

FOLDER = Path(__file__).with_name("templates")
# Prompts files of the package by name; the scenes' has all their 288 names.
FILES = {"scenes": FOLDER.parents[2] / "recipes" / "scene_names.toml"}


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates and class names of one data set.

    Attributes:
        class_names: C classes, each with one name or several; empty where the names come with the data.
        labels: C texts, what the data set's files call each class.
    """

    name: str
    templates: tuple[str, ...]
    class_names: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    source: str
    license: str

    def __post_init__(self) -> None:
        self.as_templates()
        for what, texts in (("label", self.labels), ("class name", self.keys)):
            counts = Counter(map(folded, texts))
            for text in texts:
                if counts[folded(text)] > 1:
                    fix = "name it differently"
                    raise SettingsError(f"a {what} stands twice", where=self.name, found=repr(text), fix=fix)

    @property
    def keys(self) -> tuple[str, ...]:
        """The first name of every class, which stands for the class in tables."""
        return tuple(names[0] for names in self.class_names)

    def as_templates(self) -> Templates:
        """Return the templates with the further names of classes, as classifiers take them."""
        several = {names[0]: names for names in self.class_names if len(names) > 1}
        return Templates(self.name, self.templates, several, self.source)

    def only(self, labels: Sequence[str]) -> "PromptSet":
        """Return the set with the classes of these labels alone, in their order."""
        names = dict(zip(self.labels, self.class_names, strict=True))
        for label in labels:
            if label not in names:
                raise unknown_name("class label", label, names, where=self.name)
        return replace(self, class_names=tuple(names[label] for label in labels), labels=tuple(labels))


@dataclass(frozen=True, slots=True)
class _SetFile:
    source: str
    license: str
    templates: tuple[str, ...] = ()
    class_names: tuple[str | tuple[str, ...], ...] = ()
    labels: tuple[str, ...] = ()
    of: str = ""


_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015/\\.,;:'\u2019`\"()\[\]{}!?]+")


def folded(text: str) -> str:
    """Reduce a name to what two ways of writing it share: case and separators do not count.

    What tells names apart is kept: symbols (`C++` and `C#`), separators between digits (`1.5` and `15`) and a
    dash at an end (`A-` and `A`).

    >>> folded("apple_pie") == folded("Apple Pie"), folded("F/A-18"), folded("C++"), folded("1.5 mm")
    (True, 'fa18', 'c++', '1.5mm')
    """
    return _SEPARATORS.sub(_kept_separator, unicodedata.normalize("NFC", text).casefold().strip())


def _kept_separator(match: re.Match[str]) -> str:
    before = match.string[: match.start()][-1:]
    after = match.string[match.end() :][:1]
    if before.isdigit() and after.isdigit():
        return match[0].replace("_", " ").strip() or " "
    return "-" if "-" in match[0] and not (before and after) else ""


def prompt_set_names() -> list[str]:
    """List the known sets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def prompt_set(name: str | Path) -> PromptSet:
    """Read the prompts of a known data set, or a file in the same form."""
    path = Path(name)
    return _read(path) if path.suffix == ".toml" else _known(str(name))


def open_templates(ref: str | Path) -> Templates:
    """Read a prompts file (.txt, .json or .toml), or take the templates of a known set."""
    if str(ref) in FILES:
        return load(FILES[str(ref)], name=str(ref))
    if str(ref) in prompt_set_names():
        return prompt_set(ref).as_templates()
    if not Path(ref).suffix and not Path(ref).exists():
        raise unknown_name("set of prompts", Path(ref).name, [*prompt_set_names(), *FILES])
    return load(ref)


def anchored_templates(ref: str, folder: Path) -> str:
    """Return the name of a known set as it is, and a path that stands in a file relative to that file."""
    return ref if ref in FILES or ref in prompt_set_names() else anchored(ref, folder)


@cache
def _known(name: str) -> PromptSet:
    if name not in prompt_set_names():
        raise unknown_name("set of prompts", name, prompt_set_names())
    return _read(FOLDER / f"{name}.toml")


def _read(path: Path) -> PromptSet:
    file = from_mapping(_SetFile, load_toml(path), where=path)
    if file.of:
        whole = _known(file.of)
        kept = replace(whole.only(file.labels), name=path.stem, source=f"{file.source}; {whole.source}")
        return replace(kept, templates=file.templates) if file.templates else kept
    names = tuple((name,) if isinstance(name, str) else name for name in file.class_names)
    labels = file.labels or tuple(of_class[0] for of_class in names)
    if len(labels) != len(names):
        counts = f"{len(labels)} labels, {len(names)} class names"
        what = "labels and class names differ in number"
        raise SettingsError(what, where=path, found=counts, expected="one label a class")
    return PromptSet(path.stem, file.templates, names, labels, file.source, file.license)
