"""Suites are checked before anything is read: names, entries, templates."""

from dataclasses import replace
from pathlib import Path

import pytest

from diptych.core.errors import SettingsError, UnknownNameError
from diptych.evaluate.suite.plan import RESERVED, OpenedTask, Plan, TaskSpec, load_plan, open_spec


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "a/b", "task": "mnist"}, "cannot name a file"),
        *(({"name": name, "task": "mnist"}, "another file of the run has") for name in RESERVED),
        ({"name": "Suite", "task": "mnist"}, "another file of the run has"),
        ({"name": "a\nb", "task": "mnist"}, "printable"),
        ({"name": "a" * 151, "task": "mnist"}, "150 bytes"),
        ({"name": "a", "task": "mnist", "protocols": ("few_shot",), "shots": ()}, "1 image or more"),
        ({"name": "a", "task": "mnist", "protocols": ("few_shot",), "shots": (0, 1)}, "1 image or more"),
        ({"name": "a"}, "either a source or a task"),
        ({"name": "a", "source": "x", "protocols": ("zeroshot",)}, "column of its labels"),
        ({"name": "a", "source": "x", "labels": "y", "protocols": ("probe",)}, "to learn from"),
        ({"name": "a", "source": "x", "labels": "y", "metric": "worst_group_top5"}, "needs slices"),
        ({"name": "a", "source": "x", "labels": "y", "metric": "map_11pt"}, "known data sets"),
    ],
)
def test_a_task_that_does_not_say_what_to_score_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Plan("suite", (TaskSpec(**given),))


def test_names_that_differ_in_case_alone_are_one_file_on_some_disks(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("".join(f'[[task]]\nname = "{n}"\ntask = "mnist"\n' for n in "aA"))
    with pytest.raises(SettingsError, match="a name twice"):
        load_plan(str(tmp_path / "s.toml"))


def test_templates_of_a_known_set_are_taken_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,kind\na.jpg,dog\n")
    task = 'name = "kind"\nsource = "a.csv"\nlabels = "kind"\ntemplates = "imagenet"\n'
    (tmp_path / "s.toml").write_text(f"[[task]]\n{task}")
    (spec,) = load_plan(str(tmp_path / "s.toml")).specs
    opened = open_spec(spec, tmp_path)
    assert isinstance(opened, OpenedTask) and len(opened.templates.templates) == 80
    with pytest.raises(UnknownNameError, match="did you mean 'imagenet'"):
        open_spec(replace(spec, templates="imagnet"), tmp_path)
