"""Prompt sets of known data sets: templates, cleaned class names, and what the data set's files call a class.

Class names stand in the order of the data set's class numbers. A class has one name or several; its label is
what folders and annotations call it, where that is not its name.

Reads: `templates/NAME.toml` beside this file, or a file of the user's in the same form: `source`, `license`,
`templates`, `class_names` (names, or lists of names), `labels`, and `of`: another set, of which this one has
the classes with these labels; `templates/languages.toml`, one plain template a language.
Source: Radford et al. 2021, section 3.1.4.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from diptych.core.errors import SettingsError, unknown_name
from diptych.core.files.json_objects import read_json
from diptych.core.settings import from_mapping, load_toml
from diptych.data.sources.rows import anchored
from diptych.evaluate.prompts.templates import Templates, load

FOLDER = Path(__file__).with_name("templates")
LANGUAGES = FOLDER / "languages.toml"
# Prompts files of the package by name; the scenes' has all their 288 names.
FILES = {"scenes": FOLDER.parents[2] / "recipes" / "scene_names.toml"}


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates and class names of one data set.

    Attributes:
        class_names: C classes, each with one name or several; empty where the names come with the data.
        labels: C texts, what the data set's files call each class.
        language: ISO 639-1.
    """

    name: str
    templates: tuple[str, ...]
    class_names: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    source: str
    license: str
    language: str = "en"

    def __post_init__(self) -> None:
        self.as_templates()
        for what, texts in (("label", self.labels), ("class name", self.keys)):
            if len({folded(text) for text in texts}) < len(texts):
                twice = next(text for text in texts if [folded(t) for t in texts].count(folded(text)) > 1)
                raise SettingsError(
                    f"a {what} stands twice", where=self.name, found=repr(twice), fix="name it differently"
                )

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


@dataclass(frozen=True, slots=True)
class _Languages:
    source: str
    license: str
    templates: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Translation:
    names: Mapping[str, str | tuple[str, ...]]


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
    return sorted(path.stem for path in FOLDER.glob("*.toml") if path != LANGUAGES)


def prompt_set(name: str | Path, *, language: str = "en", translation: Path | None = None) -> PromptSet:
    """Read a set of prompts.

    Args:
        name: a known set, or the path of a file in the same form.
        language: ISO 639-1 code; another language than English has its plain template alone.
        translation: class names in that language (see `translated`); without it they stay English.

    >>> prompts = prompt_set("fer2013")
    >>> len(prompts.templates), prompts.class_names[3], prompts.labels[3]
    (6, ('happy', 'smiling'), 'happiness')
    """
    path = Path(name)
    prompts = _read(path) if path.suffix == ".toml" else _known(str(name))
    if language != "en":
        prompts = replace(prompts, templates=language_templates(language), language=language)
    return translated(prompts, translation, language) if translation else prompts


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


def language_templates(language: str) -> tuple[str, ...]:
    """Return the plain templates of a language, such as `ein Foto von {}.`"""
    known = from_mapping(_Languages, load_toml(LANGUAGES), where=LANGUAGES.name).templates
    if language not in known:
        raise unknown_name("language", language, known)
    return known[language]


def translated(prompts: PromptSet, path: Path, language: str) -> PromptSet:
    """Give classes their names in another language; a class without one is left out.

    Args:
        prompts: the set.
        path: a JSON file that holds, by language code, `[[class numbers], [names]]` as Babel-ImageNet (Geigle
            et al. 2023) does, or `{label: name or names}`.
        language: the code to take, in whatever case.
    """
    content = {code.lower(): value for code, value in read_json(path).items()}
    if language.lower() not in content:
        raise unknown_name("language", language, content, where=path)
    names = _names_by_label(content[language.lower()], prompts, f"{path}: {language}")
    kept = prompts.only([label for label in prompts.labels if label in names])
    unknown = [label for label in names if label not in kept.labels]
    if unknown:
        raise unknown_name("class label", unknown[0], prompts.labels, where=path)
    return replace(
        kept,
        class_names=tuple(names[label] for label in kept.labels),
        source=f"{prompts.source}; names: {path.name}",
        language=language,
    )


def _names_by_label(content: Any, prompts: PromptSet, where: str) -> dict[str, tuple[str, ...]]:
    if isinstance(content, list) and len(content) == 2 and all(isinstance(part, list) for part in content):
        numbers, names = content
        in_range = all(type(number) is int and 0 <= number < len(prompts.labels) for number in numbers)
        if in_range and len(numbers) == len(names):
            content = {prompts.labels[number]: name for number, name in zip(numbers, names, strict=True)}
    if not isinstance(content, dict):
        raise SettingsError(
            "a file of translated class names has an unknown form",
            where=where,
            found=type(content).__name__,
            expected=f"[[numbers below {len(prompts.labels)}], [names]] of equal length, or {{label: name}}",
        )
    by_label = from_mapping(_Translation, {"names": content}, where=where).names
    return {label: (name,) if isinstance(name, str) else name for label, name in by_label.items()}


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
