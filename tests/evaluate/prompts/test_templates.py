"""Prompts: what a file may hold, what is refused and how it says so."""

import json
from pathlib import Path

import pytest

from diptych.core.errors import SettingsError
from diptych.evaluate.prompts.templates import BARE, PHOTO, Templates, fill, load


def test_fill_writes_every_name_into_every_template() -> None:
    assert fill(PHOTO, ["cat", "dog"]) == [["a photo of a cat."], ["a photo of a dog."]]


def test_fill_leaves_other_braces_and_percent_signs_alone() -> None:
    templates = Templates("t", ("100 % {} {0} {c}",))
    assert fill(templates, ["{}x"]) == [["100 % {}x {0} {c}"]]


def test_a_label_may_be_cleaned_into_several_names() -> None:
    templates = Templates("t", ("a {}", "the {}"), {"happy": ("happy", "smiling")})
    assert fill(templates, ["happy"]) == [["a happy", "the happy", "a smiling", "the smiling"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", '{"templates": ["a {}.", "the {}."], "names": {"Tshirts": "t-shirt"}}'),
        ("p.toml", 'templates = ["a {}.", "the {}."]\n[names]\nTshirts = ["t-shirt"]\n'),
    ],
)
def test_load_reads_templates_and_names(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    templates = load(tmp_path / name)
    assert templates.name == "p"
    assert fill(templates, ["Tshirts", "hat"]) == [["a t-shirt.", "the t-shirt."], ["a hat.", "the hat."]]


def test_load_reads_a_plain_list_and_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["a {}."]')
    (tmp_path / "b.txt").write_text("# the paper's\na {}.\n\n #{}\n")
    assert load(tmp_path / "a.json").templates == ("a {}.",)
    assert load(tmp_path / "b.txt", name="mine") == Templates(
        "mine", ("a {}.", "#{}"), {}, str(tmp_path / "b.txt")
    )


def test_names_alone_mean_bare_names(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text('{"names": {"Tshirts": "t-shirt"}}')
    assert load(tmp_path / "n.json").templates == BARE.templates


def test_the_published_templates_load(tmp_path: Path, shared_data: Path) -> None:
    published = json.loads((shared_data / "text" / "en_zeroshot_classification_templates.json").read_text())
    templates = [template.replace("{c}", "{}") for template in published["imagenet1k"]]
    (tmp_path / "imagenet.json").write_text(json.dumps(templates))
    assert len(load(tmp_path / "imagenet.json").templates) == 80


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.txt", "a photo\n", "where the class name goes"),
        ("p.txt", "{} and {}\n", "exactly one {}"),
        ("p.txt", "\n", "no templates"),
        ("p.json", "{", "not valid JSON"),
        ("p.toml", "templates = [", "not valid TOML"),
        ("p.json", '{"template": ["a {}"]}', "unknown shape"),
        ("p.json", '{"templates": "a {}"}', "unknown shape"),
        ("p.json", '{"templates": ["{}"], "names": {"a": 3}}', "names.a"),
        ("p.json", '{"templates": ["{}"], "names": {"a": " "}}', "cleaned into nothing"),
        ("p.json", '{"templates": ["{}"], "names": {"a": []}}', "cleaned into nothing"),
        ("p.json", "7", "unknown shape"),
        ("p.csv", "a {}", "says nothing about its format"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / name)
    assert expected in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_and_bad_bytes_are_settings_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe {}")
    with pytest.raises(SettingsError, match="not valid TXT"):
        load(tmp_path / "bad.txt")
