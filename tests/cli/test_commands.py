"""The commands from end to end on a tiny run: what they answer, what they leave behind, how they stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cli.conftest import Run, call, done
from tests.data.source_files import images

from diptych.data.shards.reader import ShardSet
from diptych.data.tokenizers.clip import Tokenizer

METRIC_KEYS = {"task", "metric", "value", "ci95", "n"}
BROKEN_PIPE, STOPPED_BY_INT, STOPPED_BY_TERM = 141, 130, 143


@contextmanager
def signalled(number: signal.Signals, when: Callable[[], bool]) -> Iterator[None]:
    """Send this process a signal as soon as something has happened."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if when():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def test_training_answers_with_the_metrics_and_leaves_model_results_and_report(run: Run) -> None:
    answered = json.loads(run.said.out)
    assert answered == json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    assert all(set(metric) == METRIC_KEYS for metric in answered)
    assert {metric["task"] for metric in answered} == {"unseen", "retrieval"}
    assert (run.folder / "model" / "model.safetensors").is_file()
    for part in ("model", "results.json", "report.html", "Try next", f"--model {run.folder}"):
        assert part in run.said.err
    assert "\x1b" not in run.said.err + run.said.out  # where nobody watches


def test_the_report_covers_every_source_and_what_was_dropped(run: Run) -> None:
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for part in ("Unseen, top-1", "Image to text, recall@1", "a red heart", "airs packed for training"):
        assert part in page
    assert "scenes:unseen?count=12" in page and "scenes:test?count=12" in page
    assert f"diptych train {run.recipe}" in page


def test_resuming_a_finished_run_says_that_it_is_done(run: Run) -> None:
    before = (run.folder / "model" / "model.safetensors").read_bytes()
    said = call("train", run.recipe, "--out", run.folder, "--resume")
    assert said.code == 0 and "this run is done" in said.err
    assert json.loads(said.out) == json.loads(run.said.out)
    assert (run.folder / "model" / "model.safetensors").read_bytes() == before


def test_evaluating_gives_the_numbers_that_training_gave(run: Run, tmp_path: Path) -> None:
    words = (
        "evaluate",
        run.folder,
        *["scenes:unseen?count=12&seed=2", "--task", "zeroshot", "--labels", "label"],
    )
    said = done(*words, "--report", tmp_path / "page.html", "--json", tmp_path / "new" / "numbers.json")
    assert said.out == ""
    numbers = json.loads((tmp_path / "new" / "numbers.json").read_text(encoding="utf-8"))
    trained = [metric for metric in json.loads(run.said.out) if metric["task"] == "unseen"]
    assert [metric["value"] for metric in numbers] == [metric["value"] for metric in trained]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_an_index_is_made_searched_and_shown_in_every_form(run: Run, tmp_path: Path) -> None:
    index = tmp_path / "scenes.index"
    assert call("index", "add", index, "scenes:test?count=12").code == 2  # of which model?
    counts = json.loads(done("index", "add", index, "scenes:test?count=12", "--model", run.folder).out)
    assert (counts["added"], counts["in"], counts["out"], counts["images"]) == (12, 12, 12, 12)
    assert json.loads(done("index", "add", index).out)["unchanged"] == 12
    words = ("search", index, "a red heart", "-k", "3")
    hits = json.loads(done(*words, "--sheet", tmp_path / "sheet.html").out)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg") == 3 and hits[0]["caption"] in page
    lines = done(*words, "--show", "table").out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    info = json.loads(done("index", "info", index).out)
    assert (info["images"], info["sources"]) == (12, {"scenes:test?count=12": {}})
    assert json.loads(done("index", "compact", index).out)["segments"] == 1
    done("index", "verify", index)
    assert json.loads(done("index", "remove", index, "scenes:test?count=12").out)["images"] == 0
    assert json.loads(done(*words).out) == []


def test_paths_and_links_of_hits(run: Run, tmp_path: Path) -> None:
    images(tmp_path / "images", "a b.png", "c.png")
    index = tmp_path / "i"
    done("index", "add", index, tmp_path / "images", "--model", run.folder)
    said = done("search", index, "red", "-0", "--links", tmp_path / "links")
    paths = said.out.split("\0")
    assert sorted(paths) == ["", *(str(tmp_path / "images" / name) for name in ("a b.png", "c.png"))]
    assert [link.resolve() for link in sorted((tmp_path / "links").iterdir())] == [*map(Path, paths[:-1])]


def test_a_watched_folder_is_followed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watchfiles = pytest.importorskip("watchfiles")
    folder, index = tmp_path / "images", tmp_path / "i"
    images(folder, "a.png")

    def watch(*folders: str) -> Iterator[set[tuple[int, str]]]:
        assert folders == (str(folder),)
        images(tmp_path / "more", "a.png", "b.png")
        (tmp_path / "more" / "b.png").rename(folder / "b.png")
        yield {(1, str(folder / "b.png"))}
        (folder / "a.png").unlink()
        yield {(3, str(folder / "a.png"))}

    monkeypatch.setattr(watchfiles, "watch", watch)
    said = done("index", "add", index, folder, "--model", run.folder, "--watch").err
    assert "1 added, 0 moved, 0 gone, 2 images" in said and "0 added, 0 moved, 1 gone, 1 images" in said


def test_packing_counts_and_training_starts_from_the_shards_where_they_are(run: Run, tmp_path: Path) -> None:
    counts = json.loads(done("pack", "scenes:train?count=40", tmp_path / "shards", "--workers", "0").out)
    assert (counts["in"], counts["out"], counts["dropped"]) == (40, 40, {})
    options = f"--set train.steps=3 --set data.source={tmp_path / 'shards'} --set evaluate=[]".split()
    assert json.loads(done("train", run.recipe, "--out", tmp_path / "run", *options).out) == []
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.parametrize("columns", ["image,caption", "caption", "parquet"])
def test_captions_are_enough_for_a_vocabulary(tmp_path: Path, columns: str) -> None:
    """Images that are missing were dropped with their captions: 512 bytes were learnt, 600 entries told."""
    captions = [f"a photo of a brown dog and the number {n}" for n in range(50)]
    path = tmp_path / "captions.csv"
    if columns == "parquet":
        path = path.with_suffix(".parquet")
        pq.write_table(pa.table({"caption": captions}), path)
    else:
        before = "none.jpg," if columns == "image,caption" else ""
        path.write_text("\n".join([columns, *(before + text for text in captions)]))
    said = done("tokenizer", path, tmp_path / "words", "--size", "600", "--context", "20")
    assert Tokenizer.load(tmp_path / "words", context_length=20).vocab_size == json.loads(said.out)["entries"]
    told, learnt = json.loads(said.out), json.loads((tmp_path / "words" / "vocab.json").read_text())
    assert "brown</w>" in learnt and told["entries"] == len(learnt) < 600
    whole = columns != "image,caption"  # there, all rows share one image
    assert (told["in"], told["out"], told["dropped"]) == ((50, 50, {}) if whole else (1, 1, {}))


def test_a_vocabulary_of_bad_captions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("caption\n" + "a dog\n" * 8 + '" "\n' * 2)
    said = call("tokenizer", path, tmp_path / "words", "--size", "600")
    assert (said.code, "--max-bad-fraction" in said.err, "empty_caption 2" in said.err) == (3, True, True), (
        said.err
    )
    assert not (tmp_path / "words").exists()
    said = call("tokenizer", path, tmp_path / "words", "--size", "600", "--max-bad-fraction", "0.2")
    assert (said.code, json.loads(said.out)["dropped"]) == (0, {"empty_caption": 2})
    path.write_text("caption\n")
    said = call("tokenizer", path, tmp_path / "none", "--size", "600")
    assert (said.code, "no caption" in said.err) == (3, True), said.err


def test_ctrl_c_saves_the_training_and_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    options = ["--set", "train.steps=400", "--set", "evaluate=[]"]
    words = ("train", run.recipe, "--out", tmp_path / "run", *options)
    with signalled(signal.SIGINT, (tmp_path / "run" / "metrics.jsonl").exists):
        said = call(*words)
    assert said.code == STOPPED_BY_INT, said.err
    assert said.out == "" and "--resume" in said.err
    again = call(*words)
    assert again.code == 2 and "a run that was stopped" in again.err and "--resume" in again.err
    assert "a run that was stopped" in call("classify", tmp_path / "run", run.recipe, "--labels", "a,b").err


def test_sigterm_while_packing_leaves_nothing_half_done(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signalled(signal.SIGTERM, lambda: any(tmp_path.iterdir())):
        said = call("pack", "scenes:train?count=100000", tmp_path / "shards", "--workers", "0")
    assert said.code == STOPPED_BY_TERM
    assert said.out == "" and "run the same command again" in said.err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_and_version_come_without_torch() -> None:
    code = (
        "import sys; from diptych.cli.main import main; "
        "codes = [main(words) for words in (['--help'], ['--version'], ['train', '--help'], [])]; "
        "sys.exit(any(codes) or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert all(name in done.stdout for name in ("pack", "train", "evaluate", "search", "diptych 0."))


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(Path(sys.executable).parent / "diptych"), "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")


def test_removing_takes_keys_from_the_line_and_from_a_file(tmp_path: Path) -> None:
    done("pack", "scenes:train?count=6&seed=0", tmp_path / "set", "--workers", "0")
    keys = [pair.key for pair in ShardSet.open(tmp_path / "set")]
    (tmp_path / "keys.txt").write_text(f"{keys[1]}\n\n{keys[4]}\n", encoding="utf-8")
    said = call("remove", tmp_path / "set", keys[0], "--keys", tmp_path / "keys.txt", "--reason", "asked")
    assert json.loads(said.out) == {
        "shards": str(tmp_path / "set"), "version": 2, "samples": 3, "removed_in_all": 3,
    }  # fmt: skip
    assert [pair.key for pair in ShardSet.open(tmp_path / "set")] == [keys[2], keys[3], keys[5]]
    assert call("remove", tmp_path / "set").code == 2
    assert call("remove", tmp_path / "set", "nobody").code == 2
