"""Settings: what is wrong is told by its dotted name, what is right survives every round trip."""

import enum
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import toml_of

from diptych.core.errors import SettingsError, UsageError
from diptych.core.settings import from_mapping, load_toml, override, to_mapping


class Precision(enum.StrEnum):
    BF16 = "bf16"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class Vit:
    width: int
    kind: Literal["vit"] = "vit"


@dataclass(frozen=True, slots=True)
class Resnet:
    layers: tuple[int, int, int, int]
    kind: Literal["resnet"] = "resnet"


@dataclass(frozen=True, slots=True)
class Train:
    steps: int = 10
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    max_grad_norm: float = 1.0
    resume: bool = False
    precision: Precision = Precision.BF16
    resize: Literal["shortest", "squash"] = "shortest"
    out: Path = Path("runs")

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must not be negative")


@dataclass(frozen=True, slots=True)
class Recipe:
    vision: Vit | Resnet
    train: Train = Train()
    labels: dict[str, int] = field(default_factory=dict)
    parts: list[Vit] = field(default_factory=list)
    anything: Any = None


def wrong(mapping: dict[str, Any]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        from_mapping(Recipe, {"vision": {"kind": "vit", "width": 8}, **mapping}, where="recipe.toml")
    return caught.value


@pytest.mark.parametrize(
    ("mapping", "where", "actual", "expected", "fix"),
    [
        ({"trian": {}}, "trian", "", "train", "'train'"),
        ({"train": {"setps": 1}}, "train.setps", "", "steps", "'steps'"),
        ({"train": {"steps": "ten"}}, "train.steps", "'ten' (str)", "a whole number", ""),
        ({"train": {"steps": 1.5}}, "train.steps", "1.5", "a whole number", ""),
        ({"train": {"steps": True}}, "train.steps", "True (bool)", "a whole number", ""),
        ({"train": {"rate": "fast"}}, "train.rate", "'fast'", "a number", ""),
        ({"train": {"resume": 1}}, "train.resume", "1 (int)", "true or false", ""),
        ({"train": {"betas": [0.9]}}, "train.betas", "[0.9]", "2 values", ""),
        ({"train": {"betas": [0.9, "x"]}}, "train.betas.1", "'x'", "a number", ""),
        ({"train": {"tasks": "all"}}, "train.tasks", "'all'", "tuple[str, ...]", ""),
        ({"train": {"precision": "bf61"}}, "train.precision", "'bf61'", "'bf16', 'float32'", "'bf16'"),
        ({"train": {"resize": "squish"}}, "train.resize", "'squish'", "'shortest', 'squash'", "'squash'"),
        ({"train": {"limit": "many"}}, "train.limit", "'many'", "a whole number", ""),
        ({"train": {"steps": -1}}, "train", "must not be negative", "", ""),
        ({"train": 3}, "train", "3 (int)", "a table of Train", ""),
        ({"labels": {"a": "b"}}, "labels.a", "'b'", "a whole number", ""),
        ({"labels": 3}, "labels", "3", "a table", ""),
        ({"parts": [{"width": 1}, {}]}, "parts.1.width", "", "a whole number", ""),
        ({"vision": {"kind": "vti", "width": 1}}, "vision.kind", "'vti'", "'vit', 'resnet'", "'vit'"),
        ({"vision": {"width": 1}}, "vision.kind", "", "'vit', 'resnet'", ""),
        ({"vision": {"kind": "vit", "layers": []}}, "vision.layers", "", "kind, width", ""),
        ({"vision": {"kind": "resnet"}}, "vision.layers", "", "tuple[int, int, int, int]", ""),
        ({"vision": "vit"}, "vision", "'vit'", "Vit or Resnet", ""),
    ],
)
def test_a_wrong_setting_is_told_with_place_and_nearest(
    mapping: dict[str, Any], where: str, actual: str, expected: str, fix: str
) -> None:
    error = wrong(mapping)
    assert error.where == f"recipe.toml: {where}"
    assert actual in error.found and expected in error.expected and fix in error.fix
    assert bool(error.fix) == bool(fix)


def test_a_renamed_setting_is_refused_with_its_present_name() -> None:
    with pytest.raises(SettingsError, match="write max_grad_norm: the setting was renamed"):
        from_mapping(Train, {"gradient_clip": 1.0}, where="mine.toml")


def test_whole_numbers_become_floats_and_none_means_nothing() -> None:
    train = from_mapping(Train, {"rate": 1, "limit": "none", "out": "a/b", "precision": "float32"})
    assert train == Train(rate=1.0, limit=None, out=Path("a/b"), precision=Precision.FLOAT32)
    assert type(train.rate) is float
    assert from_mapping(Train, {"limit": 3}).limit == 3


RECIPES = st.builds(
    Recipe,
    vision=st.one_of(
        st.builds(Vit, width=st.integers()), st.builds(Resnet, layers=st.tuples(*[st.integers()] * 4))
    ),
    train=st.builds(
        Train,
        steps=st.integers(min_value=0),
        rate=st.floats(allow_nan=False),
        tasks=st.lists(st.text(), max_size=3).map(tuple),
        limit=st.one_of(st.none(), st.integers()),
        precision=st.sampled_from(Precision),
        resume=st.booleans(),
    ),
    labels=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(2**63), 2**63 - 1), max_size=3
    ),
    parts=st.lists(st.builds(Vit, width=st.integers()), max_size=2),
)


@given(RECIPES)
def test_settings_survive_plain_values_and_toml(recipe: Recipe) -> None:
    assert from_mapping(Recipe, to_mapping(recipe)) == recipe
    assert from_mapping(Recipe, tomllib.loads(toml_of(to_mapping(recipe)))) == recipe


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1e-3", 1e-3), ("true", True), ('"1"', "1"), ("[1, 2]", [1, 2]), ("small", "small"),
        ("a b=c", "a b=c"), ("runs/demo", "runs/demo"), ("", ""), ("1\nb = 2", "1\nb = 2"),
    ],
)  # fmt: skip
def test_override_reads_toml_and_bare_words(text: str, value: object) -> None:
    assert override({}, [f"a.b={text}"]) == {"a": {"b": value}}


def test_override_changes_a_copy_and_the_last_one_wins() -> None:
    before = {"train": {"steps": 1, "rows": [{"n": 1}]}}
    after = override(before, ["train.steps=2", "train.steps=3", "train.rows.0.n=5"])
    assert after == {"train": {"steps": 3, "rows": [{"n": 5}]}}
    assert before == {"train": {"steps": 1, "rows": [{"n": 1}]}}


@pytest.mark.parametrize("assignment", ["steps", "=1", "train.steps.deep=1", "train.rows.7.n=1"])
def test_override_refuses_what_it_cannot_place(assignment: str) -> None:
    with pytest.raises(SettingsError) as caught:
        override({"train": {"steps": 1, "rows": [{"n": 1}]}}, [assignment])
    assert "--set" in caught.value.where and assignment in caught.value.where


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_toml(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("a = 1\nb = = 2\n")
    with pytest.raises(SettingsError, match="not TOML") as caught:
        load_toml(tmp_path / "bad.toml")
    assert "bad.toml" in caught.value.where and "line" in caught.value.found
