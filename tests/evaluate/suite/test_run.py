"""Suites: every task's file is whole, says what was unreadable, and survives a kill at every durable step."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluate.conftest import BLUE, GREEN, RED, ColorModel, Swatches, solid

from diptych.cli import evaluate
from diptych.core.errors import (
    DataError,
    EnvironmentFault,
    IntegrityError,
    SettingsError,
    UnknownNameError,
    UsageError,
)
from diptych.core.files.durable import TEMP_PREFIX, operations, sha256_file
from diptych.core.records import Counts, Metric
from diptych.data.images.transforms import Preprocess
from diptych.data.sources.open import open_source
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.metrics.intervals import clopper_pearson
from diptych.evaluate.suite import compare, features_cache
from diptych.evaluate.suite import run as suite_run
from diptych.evaluate.suite.compare import seen_in_training
from diptych.evaluate.suite.features_cache import FeatureSettings, cached_pairs, data_digest, parse_shard
from diptych.evaluate.suite.plan import RESERVED, MissingTask, Plan, load_plan, open_spec
from diptych.evaluate.suite.results import expectations, read_answers, read_result
from diptych.evaluate.suite.run import SuiteOutcome, SuiteSettings, embed_shard, run_suite
from diptych.evaluate.suite.scoring import ProtocolResult, TaskLabels
from diptych.evaluate.tasks.registry import task_rows
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.presets import preset

COLORS = {"red": RED, "green": GREEN, "blue": BLUE}
SPEC = """
[[task]]
name = "color"
source = "pictures.csv"
labels = "color"
metric = "mean_per_class"
protocols = ["zeroshot", "probe", "few_shot", "retrieval"]
train = "train.csv"
slices = ["shop"]
shots = [1, 2]
"""


class Colors(ColorModel):
    """The model of colors with what suites ask of one: a digest, and features before the projection."""

    def __init__(self, digest: str = "c" * 64) -> None:
        super().__init__()
        self.digest = digest
        self.config.vision = type("Vision", (), {"width": 3})()


def write(folder: Path) -> Path:
    """Six test images, one mislabelled and one damaged, twelve for training, and the suite's file."""
    shown = [("red", RED), ("green", GREEN), ("blue", BLUE), ("red", GREEN), ("green", GREEN), ("blue", None)]
    rows, learned = ["image,caption,color,shop"], ["image,caption,color"]
    for number, (label, color) in enumerate(shown):
        (folder / f"{number}.png").write_bytes(solid(color) if color else b"broken")
        rows.append(f"{number}.png,a {label} thing,{label},{'north' if number % 2 else 'south'}")
    for number in range(12):
        label, color = list(COLORS.items())[number % 3]
        (folder / f"t{number}.png").write_bytes(solid(tuple(max(0, value - 10 * number) for value in color)))
        learned.append(f"t{number}.png,a {label} thing,{label}")
    (folder / "pictures.csv").write_text("\n".join(rows) + "\n")
    (folder / "train.csv").write_text("\n".join(learned) + "\n")
    (folder / "suite.toml").write_text(SPEC)
    return folder / "suite.toml"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "own").mkdir()
    return load_plan(str(write(tmp_path / "own")))


@pytest.fixture
def quick(plan: Plan) -> Plan:
    """The same task by words and by retrieval alone."""
    return Plan(plan.name, (replace(plan.specs[0], protocols=("zeroshot", "retrieval")),))


def run(
    plan: Plan, out: Path, *, model: object = None, log: object = str, **settings: object
) -> SuiteOutcome:
    told = SuiteSettings(out.parent / "nowhere", out, **settings)
    return run_suite(model or Colors(), plan, told, name="colors", log=log)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()}


def test_every_protocol_scores_and_the_unreadable_image_is_wrong(plan: Plan, tmp_path: Path) -> None:
    lines: list[str] = []
    outcome = run(plan, tmp_path / "out", log=lines.append)
    assert "of 6 images: unreadable_image 1" in lines[-1]
    result = json.loads((tmp_path / "out" / "color.json").read_text())
    assert result == outcome.results[0]
    assert set(files(tmp_path / "out")) == {"color.json", "color.npz", "suite.json"}
    protocols, items = result["protocols"], result["items"]
    metrics = {name: {m["metric"]: m["value"] for m in entry["metrics"]} for name, entry in protocols.items()}
    zeroshot, shots = protocols["zeroshot"], protocols["few_shot"]
    # red 1 of 2, green 2 of 2, blue 1 of 2: the damaged one stays in the denominator.
    assert (zeroshot["metric"], zeroshot["value"], zeroshot["n"]) == ("mean_per_class", 2 / 3, 6)
    assert zeroshot["metrics"][0]["ci95"] == list(clopper_pearson(4, 6))
    slices = {entry["metric"]: entry["value"] for entry in zeroshot["slices"]}
    assert slices == {"shop=north": 1 / 3, "shop=south": 1.0}
    assert (items["unreadable"], items["pictures"], items["reasons"]) == (1, 6, {"unreadable_image": 1})
    assert metrics["zeroshot"]["top1"] == metrics["probe"]["top1"] == 4 / 6
    assert (shots["metric"], shots["value"], shots["n"]) == ("2_shot_accuracy", pytest.approx(4 / 6), 6)
    assert metrics["retrieval"]["image_to_text_recall@1"] == 4 / 6 and metrics["retrieval"]["unreadable"] == 1
    assert sum(zeroshot["reliability"]["counts"]) == 5
    assert (zeroshot["classes"], zeroshot["classes_that_occur"]) == (3, 3)
    assert result["model"] == {"name": "colors", "digest": "c" * 64, "public": ""}
    assert outcome.summary["means"]["zeroshot"] == {"mean": 2 / 3, "tasks": 1, "of": 1, "over": ["color"]}
    assert outcome.answers(0)["zeroshot_hits"].tolist() == [True, True, True, False, True, False]


def test_any_batch_size_gives_the_same_files_of_a_real_model(
    quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.models.published import WORDS

    config = preset("vit-mini-16-64").with_tokenizer(
        vocab_size=WORDS.vocab_size, start_id=WORDS.start_id, end_id=WORDS.end_id, pad_id=0,
        context_length=WORDS.context_length,
    )  # fmt: skip
    model = Model(build(config, seed=0), WORDS, Preprocess(size=config.vision.image_size))
    found = []
    for size in (1, 7, 64):
        monkeypatch.setattr(features_cache, "IMAGE_BATCH", size)
        outcome = run(quick, tmp_path / f"out{size}", model=model)
        found.append(outcome.results[0]["protocols"]["zeroshot"])
    assert found[0] == found[1] == found[2]


def test_two_processes_give_the_same_files_as_one(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_cache, "PART_ROWS", 2)
    torch.set_num_threads(1)  # the pool of threads does not survive a fork
    run(plan, tmp_path / "one")
    child = os.fork()
    if child == 0:
        settings = SuiteSettings(
            tmp_path / "nowhere", tmp_path / "two", features=FeatureSettings(shard=(1, 2))
        )
        embed_shard(Colors(), plan, settings)
        os._exit(0)
    run(plan, tmp_path / "two", features=FeatureSettings(shard=(0, 2)))
    assert os.waitpid(child, 0)[1] == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    rows = [sorted((tmp_path / name).rglob("rows.npy")) for name in ("one", "two")]
    assert [path.read_bytes() for path in rows[0]] == [path.read_bytes() for path in rows[1]]
    assert len(rows[0]) == 3 and not list((tmp_path / "two").rglob("part-*.npz"))


def test_a_process_whose_partner_is_lost_does_not_wait_for_ever(
    quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_cache, "PART_ROWS", 2)
    monkeypatch.setattr(features_cache, "MAX_WAIT_SECONDS", 0.3)
    with pytest.raises(EnvironmentFault, match=r"(?s)2 of 3 parts.*--shard"):
        run(quick, tmp_path / "out", features=FeatureSettings(shard=(0, 2)))
    run(quick, tmp_path / "out")  # alone, it uses what is there
    for wrong in ("2/2", "1", "a/b"):
        with pytest.raises(SettingsError, match="shard"):
            FeatureSettings(shard=parse_shard(wrong))


def test_a_kill_at_every_durable_step_and_resuming_gives_the_same_files(
    quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_cache, "PART_ROWS", 4)
    torch.set_num_threads(1)  # the pool of threads does not survive a fork
    run(quick, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    monkeypatch.setenv("DIPTYCH_TESTING", "1")
    step, steps = 0, 0
    while True:
        step += 1 if step < 30 else 3
        out = tmp_path / f"out{step}"
        child = os.fork()
        if child == 0:
            os.environ["DIPTYCH_FAILPOINT"] = f"exit:{operations() + step}"
            try:
                run(quick, out)
            except BaseException:
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == 137
        run(quick, out, resume=True)
        assert files(out) == whole, step
        assert not list(out.rglob(f"{TEMP_PREFIX}*")) and not list(out.rglob("part-*")), step
        steps += 1
    assert steps > 20


def test_resuming_computes_nothing_anew(quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(quick, tmp_path / "out")
    monkeypatch.setattr(suite_run, "TaskRunner", None)
    assert run(quick, tmp_path / "out", resume=True).results == first.results
    with pytest.raises(UsageError, match="holds results already"):
        run(quick, tmp_path / "out")


def test_results_of_another_model_other_data_or_question_are_refused(quick: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(quick, out)
    with pytest.raises(UsageError, match="of another model"):
        run(quick, out, model=Colors("d" * 64), resume=True)
    with pytest.raises(UsageError, match="of another question"):
        run(Plan(quick.name, (replace(quick.specs[0], metric="accuracy"),)), out, resume=True)
    first = (tmp_path / "own" / "0.png").read_bytes()
    (tmp_path / "own" / "0.png").write_bytes(solid(BLUE))
    with pytest.raises(UsageError, match="of other data"):
        run(quick, out, resume=True)
    (tmp_path / "own" / "0.png").write_bytes(first)
    (out / "color.npz").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="not what was written"):
        run(quick, out, resume=True)


def test_features_are_kept_and_damage_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_cache, "PART_ROWS", 2)
    source = Swatches([(solid(color), ("a",), {"n": number}) for number, color in enumerate([RED] * 5)])

    def rows() -> EmbeddedPairs:
        digests = "m" * 64, "d" * 64
        return cached_pairs(Colors(), source, tmp_path, digests, "embeds", FeatureSettings())

    first = rows()
    assert isinstance(first.image_embeds, np.memmap) and first.image_embeds.shape == (5, 3)
    assert first.keys == ("0", "1", "2", "3", "4") and first.fields[4] == {"n": 4} and first.counts.kept == 5
    monkeypatch.setattr(features_cache, "image_batches", None)  # nothing is embedded again
    again = rows()
    assert np.array_equal(again.image_embeds, first.image_embeds) and again.counts == first.counts
    (file,) = tmp_path.rglob("rows.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        rows()


def test_the_digest_of_data_does_not_depend_on_where_it_lies(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = load_plan(str(write(tmp_path / "other")))
    sources = [open_spec(found.specs[0], tmp_path).source for found in (plan, other)]
    assert data_digest(sources[0]) == data_digest(sources[1])
    assert data_digest(sources[0]) != data_digest(sources[0], "caption=title")
    assert plan.specs[0].digest == other.specs[0].digest


def test_a_data_set_that_is_not_there_is_told_with_its_address(tmp_path: Path) -> None:
    specs = load_plan("paper27").specs
    found = open_spec(specs[0], tmp_path)
    assert isinstance(found, MissingTask) and "food-101" in found.get_from and "wds_food101" in found.get_from
    with pytest.raises(UsageError, match="no data set of the suite was found"):
        run(load_plan("retrieval"), tmp_path / "out")
    with pytest.raises(UsageError, match="did you mean 'paper27'"):
        load_plan("paper72")


def test_what_a_run_writes_beside_its_tasks_is_reserved(plan: Plan, tmp_path: Path) -> None:
    run(plan, tmp_path / "out")
    beside = {path.stem for path in (tmp_path / "out").glob("*.json")} - {"color"}
    source = Path(evaluate.__file__).read_text()
    assert beside | set(re.findall(r'"(\w+)\.json"', source)) == RESERVED


def test_a_column_to_slice_by_that_is_not_there_is_refused(quick: Plan, tmp_path: Path) -> None:
    spec = replace(quick.specs[0], slices=("shopp",))
    with pytest.raises(UnknownNameError, match="did you mean 'shop'"):
        run(Plan("colors", (spec,)), tmp_path / "out")


def test_a_second_label_of_an_image_is_refused(quick: Plan, tmp_path: Path) -> None:
    table = tmp_path / "own" / "pictures.csv"
    table.write_text(table.read_text() + "0.png,a further caption,red,south\n")
    assert run(quick, tmp_path / "one").results[0]["items"]["pictures"] == 6
    table.write_text(table.read_text() + "0.png,a red thing,green,south\n")
    with pytest.raises(DataError, match=r"(?s)rows 2 and 9.*'red' and 'green'"):
        run(quick, tmp_path / "two")


@pytest.mark.parametrize(
    ("value", "half", "passed"), [(0.51, 0.01, True), (0.515, 0.001, True), (0.5, 0.01, False)]
)
def test_published_numbers_are_held_against_what_was_found(value: float, half: float, passed: bool) -> None:
    metric = Metric("mnist", "accuracy", value, (value - half, value + half), 9)
    answers = {"zeroshot": ProtocolResult(metric, TaskLabels(np.arange(9), (), np.arange(0)))}
    (entry,) = expectations(task_rows()["mnist"], answers, "ViT-B-32/openai")
    assert (entry["value"], entry["passed"]) == (0.519, passed)


def test_tasks_are_scored_with_and_without_what_training_has_seen(
    quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, own = run(quick, tmp_path / "out"), tmp_path / "own"
    # Flat images are copies only where their pixels are equal: of all, training has the red one.
    (report,) = seen_in_training(outcome, open_source(str(own / "train.csv")))
    assert (report.task, report.n, report.n_overlap) == ("color", 6, 1)
    assert (report.all_accuracy, report.overlap_accuracy, report.clean_accuracy) == (4 / 6, 1.0, 3 / 5)
    emptied = Swatches([(b"", ("a thing",), {"color": "red"}) for _ in range(6)])
    without = replace(outcome, opened=(replace(outcome.opened[0], source=emptied),))
    assert seen_in_training(without, emptied)[0].n_overlap == 0  # missing images are copies of nothing
    choices = replace(outcome, results=({**outcome.results[0], "protocols": {"caption_choice": {}}},))
    assert seen_in_training(choices, open_source(str(own / "train.csv"))) == []
    monkeypatch.setattr(compare, "PART", 5)
    monkeypatch.setattr(compare, "TOGETHER", 10)
    counts = Counts()
    (report,) = seen_in_training(outcome, open_source(str(own / "pictures.csv")), counts)
    assert counts.as_dict()["dropped"] == {"unreadable_image": 1} and counts.seen == 6
    assert (report.n, report.n_overlap) == (6, 6)  # the damaged one by its bytes


def test_results_with_the_protocol_names_of_version_0_1_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", rows=np.arange(2), kshot_hits=np.ones(2), choice_hits=np.zeros(2))
    old = {"protocols": {"zeroshot": {}, "kshot": {"n": 2}}, "not_run": {"choice": "no captions"}}
    (tmp_path / "a.json").write_text(json.dumps(old | {"answers_sha256": sha256_file(tmp_path / "a.npz")}))
    result = read_result(tmp_path / "a.json")
    assert result["protocols"] == {"zeroshot": {}, "few_shot": {"n": 2}}
    assert result["not_run"] == {"caption_choice": "no captions"}
    arrays = read_answers(tmp_path / "a.npz", result)
    assert sorted(arrays) == ["caption_choice_hits", "few_shot_hits", "rows"]
