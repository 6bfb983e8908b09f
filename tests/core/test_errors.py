"""Errors: four short parts, exit codes, and the nearest known name."""

import pickle
import re

import pytest

from diptych.core import errors
from diptych.core.errors import (
    BadSampleError,
    DiptychError,
    EnvironmentFault,
    IntegrityError,
    Reason,
    unknown_name,
)


def all_errors() -> list[type[DiptychError]]:
    actual, stack = [], [DiptychError]
    while stack:
        actual.append(stack.pop())
        stack += actual[-1].__subclasses__()
    return [cls for cls in actual if cls.__module__ == errors.__name__]


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = dict(re.findall(r"(?:^|[├└│─ ])(\w+(?:Error|Fault)) *(\d)?", errors.__doc__ or "", flags=re.M))
    assert set(drawn) == {cls.__name__ for cls in all_errors()}
    for cls in all_errors():
        if drawn[cls.__name__]:
            assert cls.exit_code == int(drawn[cls.__name__])
    names = ("SettingsError", "TooMuchBadDataError", "MissingPackageError", "IntegrityError")
    assert [getattr(errors, name).exit_code for name in names] == [2, 3, 4, 5]
    assert all(reason.value == reason.name.lower() for reason in Reason)


def test_a_message_has_up_to_four_parts_and_no_empty_lines() -> None:
    error = IntegrityError(
        "the shard is damaged", where="a.tar", found="1 B", expected="2 B", fix="copy it again"
    )
    assert str(error).splitlines() == [
        "the shard is damaged",
        "  where: a.tar",
        "  found 1 B, expected 2 B",
        "  to do: copy it again",
    ]
    assert str(EnvironmentFault("no room")) == "no room"
    assert str(EnvironmentFault("no room", expected="some")) == "no room\n  expected some"


@pytest.mark.parametrize(
    "error",
    [
        DiptychError("a", where="b", found="c", expected="d", fix="e"),
        BadSampleError(Reason.TRUNCATED_IMAGE, "a", where="b", found="c"),
        unknown_name("preset", "x", ["y"]),
    ],
)
def test_errors_cross_process_borders_whole(error: DiptychError) -> None:
    """Worker processes send their errors to the parent pickled; keyword-only parts were lost on the way."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error)
    assert getattr(copy, "reason", None) == getattr(error, "reason", None)


def test_an_unknown_name_tells_the_nearest_one_whatever_its_case_or_a_list_of_bearable_length() -> None:
    error = unknown_name("preset", "vit-b32", ["RN50", "ViT-B-16", "ViT-B-32"], where="recipe.toml")
    assert "'ViT-B-32'" in error.fix and error.exit_code == 2 and error.where == "recipe.toml"

    error = unknown_name("class", "zzz", [f"name {index}" for index in range(288)])
    assert error.fix == "" and "288 in all" in error.expected and len(error.expected) < 200

    assert "no task is known" in str(unknown_name("task", "x", []))
