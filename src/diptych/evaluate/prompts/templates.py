"""Prompt templates: captions with one `{}` where the class name goes, cleaned class names, and their files.

Reads: a prompts file: `.txt` with one template a line (lines that start with `# ` are skipped), or `.json` or
`.toml` with `templates` and `names`, `{"Tshirts": "t-shirt"}`: what to write for a label of the data. A name
may be cleaned into several (`"happy": ["happy", "smiling"]`): the class then gets the prompts of all of them.
A label with a cleaned name is a class to choose from, also where no image has it.

Source: Radford et al. 2021, section 3.1.4.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diptych.core import checks
from diptych.core.errors import SettingsError
from diptych.core.files.reading import read_text
from diptych.core.settings import from_mapping

PLACEHOLDER = "{}"


@dataclass(frozen=True, slots=True)
class Templates:
    """A named set of templates, and the cleaned class names that go with it.

    Attributes:
        name: what tables and charts call this set.
        templates: captions with exactly one `{}` each, at least one.
        names: label as the data has it -> the names to write instead.
        source: where the set comes from, for the manifest.
    """

    name: str
    templates: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        where = self.source or self.name
        if not self.templates:
            fix = "add one, such as `a photo of a {}.`"
            raise SettingsError("a set of prompts has no templates", where=where, fix=fix)
        for number, template in enumerate(self.templates, start=1):
            if template.count(PLACEHOLDER) != 1:
                raise SettingsError(
                    "a template does not say where the class name goes",
                    where=f"{where}, template {number}",
                    found=repr(template),
                    expected="exactly one {}",
                    fix="write {} once, where the name belongs",
                )
        for label, cleaned in self.names.items():
            if not cleaned or not all(name.strip() for name in cleaned):
                raise SettingsError(
                    "a class name was cleaned into nothing",
                    where=f"{where}, names",
                    found=f"{label!r} -> {list(cleaned)!r}",
                    expected="at least one name",
                    fix="write the name, or leave the label out to keep it as it is",
                )


BARE = Templates("bare names", (PLACEHOLDER,), source="built in")  # what every other set is compared with
PHOTO = Templates("a photo of a {}.", ("a photo of a {}.",), source="Radford et al. 2021, section 3.1.4")


def fill(templates: Templates, class_names: Sequence[str]) -> list[list[str]]:
    """Write every class name into every template: C lists of prompts, T for each name of the class.

    >>> fill(Templates("two", ("a {}.", "the {}."), {"Tshirts": ("t-shirt",)}), ["Tshirts", "hat"])
    [['a t-shirt.', 'the t-shirt.'], ['a hat.', 'the hat.']]
    """
    checks.kind(templates, Templates, "templates", fix='write Templates("mine", ("a photo of a {}.",))')
    return [
        [
            template.replace(PLACEHOLDER, name)
            for name in templates.names.get(label, (label,))
            for template in templates.templates
        ]
        for label in checks.texts(class_names, "class_names")
    ]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Contents of a prompts file."""

    templates: tuple[str, ...] = (PLACEHOLDER,)
    names: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)


def load(path: str | Path, *, name: str = "") -> Templates:
    """Read a `.txt`, `.json` or `.toml` prompts file; the set is called `name`, or the file's stem."""
    path = Path(path)
    try:
        text = read_text(path)
        if path.suffix == ".json":
            content = json.loads(text)
        elif path.suffix == ".toml":
            content = tomllib.loads(text)
        elif path.suffix == ".txt":
            lines = (line.strip() for line in text.splitlines())
            content = [line for line in lines if line and not line.startswith("# ")]
        else:
            what = "a prompts file has an ending that says nothing about its format"
            found = path.suffix or "no ending"
            raise SettingsError(
                what, where=path, found=found, expected=".txt, .json or .toml", fix="rename it"
            )
    except OSError as error:
        what, found = "a prompts file cannot be read", error.strerror or str(error)
        raise SettingsError(what, where=path, found=found, fix="check the path") from error
    except ValueError as error:
        what = f"a prompts file is not valid {path.suffix[1:].upper()}"
        raise SettingsError(what, where=path, found=error, fix="correct the file") from error
    content = {"templates": content} if isinstance(content, list) else content
    try:
        file = from_mapping(Prompts, content, where=path)
    except SettingsError as error:
        what, expected = "a prompts file has an unknown shape", "a list of templates, or {templates, names}"
        raise SettingsError(what, where=error.where, found=error.found, expected=expected) from error
    names = {label: (name,) if isinstance(name, str) else name for label, name in file.names.items()}
    return Templates(name or path.stem, file.templates, names, str(path))
