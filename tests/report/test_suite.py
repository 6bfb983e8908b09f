"""The report of a suite, the comparison of two models, and tables of public models."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.suite.test_run import Colors, run, write

from diptych.core.errors import SettingsError, UsageError
from diptych.evaluate.suite.compare import best_published, compare, read_published
from diptych.evaluate.suite.plan import Plan, TaskSpec, load_plan
from diptych.evaluate.suite.run import SuiteOutcome, SuiteSettings, run_suite
from diptych.report.page import environment
from diptych.report.suite import write_suite_report


class Muddled(Colors):
    """Takes red for green and green for red; blue stays."""

    def encode_batch(self, batch: np.ndarray, *words: str, **options: str) -> np.ndarray:
        batch = batch if batch.ndim == 2 else batch[..., [1, 0, 2]]
        return super().encode_batch(batch, *words, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures and their suite in `own`."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "own").mkdir()
    write(folder / "own")
    return folder


@pytest.fixture(scope="module")
def both(place: Path) -> tuple[SuiteOutcome, SuiteOutcome]:
    plan = load_plan(str(place / "own" / "suite.toml"))
    other = run(plan, place / "out" / "baseline", model=Muddled("d" * 64))
    return run(plan, place / "out"), other


def test_two_models_are_compared_picture_by_picture(both: tuple[SuiteOutcome, SuiteOutcome]) -> None:
    found = {entry.protocol: entry for entry in compare(*both)}
    assert set(found) == {"zeroshot", "probe", "few_shot", "retrieval", "retrieval of images"}
    # Right are red, green, blue and a green of two greens; muddled: blue and the red that is shown green.
    zero = found["zeroshot"]
    assert (zero.value, zero.other, zero.n) == (4 / 6, 2 / 6, 6)
    assert zero.gain == pytest.approx(2 / 6)
    assert zero.p_value == 2 * (1 + 4) / 2**4  # three won, one lost: two tails of four fair coins
    assert found["probe"].gain == 0 and found["probe"].p_value == 1


def test_models_on_other_data_are_not_compared(both: tuple[SuiteOutcome, SuiteOutcome]) -> None:
    changed = replace(both[1], results=({**both[1].results[0], "data": "e" * 64},))
    with pytest.raises(UsageError, match="different data"):
        compare(both[0], changed)


def test_the_report_shows_every_part_and_is_the_same_twice(
    both: tuple[SuiteOutcome, SuiteOutcome], tmp_path: Path
) -> None:
    for name in ("a.html", "b.html"):
        write_suite_report(tmp_path / name, both[0], baseline=both[1], command="diptych evaluate x")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b.html").read_text(encoding="utf-8")
    for part in (
        "Results", "Side by side", "Prompts", "Few-shot linear probes", "Slices",
        "shop=north", "Calibration", "Worst classes", "Retrieval examples", "Left out",
        "images that cannot be read", "All metrics", "diptych evaluate x", "over 1 of 1 tasks",
    ):  # fmt: skip
        assert part in page, part
    assert page.count("<img") > 10 and "http:/" not in re.sub(r'"data:[^"]*"', "", page)


def test_a_known_data_set_stands_beside_the_paper_and_public_models(tmp_path: Path) -> None:
    from tests.evaluate import miniatures

    miniatures.write("mnist", tmp_path / "data" / "mnist")
    (tmp_path / "data" / "published_openclip_results.csv").write_text(
        "name,pretrained,Average perf. on 38 datasets,MNIST\n"
        "ViT-B-32-quickgelu,openai,0.5,0.4827\nViT-H-14,dfn5b,0.7,0.8364\n"
    )
    model = Colors()
    model.provenance = {"published_as": "ViT-B-32/openai"}
    plan = Plan("two", (TaskSpec("mnist", task="mnist"), TaskSpec("stl10", task="stl10")))
    outcome = run_suite(model, plan, SuiteSettings(tmp_path / "data", tmp_path / "out"), name="mine")
    (entry,) = outcome.results[0]["expected"]
    assert (entry["protocol"], entry["value"]) == ("zeroshot", 0.519)
    assert outcome.results[0]["items"]["stated"] == 10000
    assert [lost["task"] for lost in outcome.summary["not_found"]] == ["stl10"]
    assert outcome.summary["means"]["zeroshot"]["of"] == 2
    assert outcome.summary["means"]["zeroshot"]["over"] == ["mnist"]
    write_suite_report(tmp_path / "page.html", outcome, published=read_published(tmp_path / "data"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for part in ("ViT-B-32/openai, published", "48.3\u202f%", "ViT-H-14/dfn5b, published", "83.6\u202f%",
                 "51.9\u202f%", "88.3\u202f%", "Not scored", "cs.stanford.edu"):  # fmt: skip
        assert part in page, part


def test_the_published_table_is_read(shared_data: Path, tmp_path: Path) -> None:
    table = read_published(shared_data)
    assert table["ViT-B-32/openai"]["ImageNet 1k"] == pytest.approx(0.633, abs=0.002)
    assert best_published(table) == "ViT-H-14-378/dfn5b"
    assert read_published(tmp_path) == {}
    (tmp_path / "published_openclip_results.csv").write_text("name,pretrained,MNIST\na,b,high\n")
    with pytest.raises(SettingsError, match="public models cannot be read"):
        read_published(tmp_path)


def test_the_reliability_diagram_draws_the_bins_that_hold_something() -> None:
    drawn = (
        environment()
        .get_template("macros.html")
        .module.reliability_diagram([None, 0.75], [None, 0.5], [0, 8])
    )
    assert drawn.count("<rect") == 1 and "confidence 75.0" in drawn and "8 predictions" in drawn
