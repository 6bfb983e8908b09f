"""The whole curation on a small world, against a plain recount of what should come out; and what stops it."""

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import toml_of
from tests.curate import crawl_files, miniatures, worlds
from tests.curate.fault_server import FaultServer, jpeg

from diptych.cli.main import main
from diptych.core.errors import DataError, EnvironmentFault, UsageError
from diptych.core.files.durable import TEMP_PREFIX, operations
from diptych.core.manifest import read_manifest
from diptych.core.records import Counts
from diptych.core.settings import to_mapping
from diptych.curate.pipeline.recipe import SETTING_OF, CurateRecipe
from diptych.curate.pipeline.run import FORMAT, STAGES, curate, partition_on_ray
from diptych.curate.pipeline.stages import read_table
from diptych.data.shards.reader import ShardSet
from diptych.report.datacard import write_card

Small = tuple[CurateRecipe, Path]

# Of the articles of `worlds`, counted by hand.
QUERIES = {
    "a": "words", "black": "words", "brown": "words", "cat": "words", "dog": "words", "is": "words",
    "a black": "bigrams", "a brown": "bigrams", "black cat": "bigrams", "brown dog": "bigrams",
    "hot dog": "titles", "domestic dog": "wordnet", "frying pan": "wordnet",
}  # fmt: skip
CAPTIONS = [
    "A (Dog), asleep", "my hot dog", "BROWN DOG running", "the black cat", "a domestic dog", "dog", "hotdogs",
    "a cat, a dog", "IMG_0001.JPG", "x", "Mercury rising", "call 555-234-5678 for a dog",
    "a  frying\u00a0pan!",
]  # fmt: skip


TWO_NODES = """
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from diptych.curate.pipeline.run import curate
from diptych.curate.pipeline.recipe import load_curate_recipe

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
assert len([node for node in ray.nodes() if node["Alive"]]) == 2
curate(load_curate_recipe(Path(sys.argv[1])), Path(sys.argv[2]), engine="ray")
ray.shutdown()
cluster.shutdown()
"""


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def expected_matches(caption: str) -> set[str]:
    spaced = f" {' '.join(words_of(caption.replace(chr(160), ' ')))} "
    return {query for query in QUERIES if f" {query} " in spaced}


def digests(folder: Path) -> dict[str, str]:
    """Return what a user gets: shards, index, manifest and card, not the manifests of stages."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def dropped(folder: Path) -> dict[str, int]:
    counts = read_manifest(folder).counts
    assert counts["in"] == counts["out"] + sum(counts["dropped"].values())
    return dict(counts["dropped"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A recipe over twelve pairs in three partitions, and what it makes when nothing interrupts it."""
    folder = tmp_path_factory.mktemp("small")
    rows = [(f"pair-{n}", jpeg(n), caption) for n, caption in enumerate(CAPTIONS)]
    rows += [("double", jpeg(0), "Dogs asleep: a dog"), ("broken", b"\xff\xd8no image", "a dog nobody sees")]
    pairs = worlds.write_pairs(folder / "pairs.parquet", rows)
    recipe = worlds.recipe(
        queries=worlds.write_sources(folder),
        candidates={"sources": [str(pairs)], "partition_rows": 5},
        balance={"cap": 4, "mode": "exact"},
        dedup={"near": False},
        card={"title": "A small world"},
    )
    curate(recipe, folder / "out")
    return recipe, folder / "out"


def test_queries_are_those_of_a_plain_count(small: Small) -> None:
    table = read_table(small[1] / "stages" / "queries" / "queries.parquet")
    assert dict(zip(table["query"].to_pylist(), table["source"].to_pylist(), strict=True)) == QUERIES


def test_every_candidate_ends_where_it_should(small: Small) -> None:
    folder, nothing = small[1], [text for text in CAPTIONS if not expected_matches(text)]
    assert {"x", "IMG_0001.JPG"} < set(nothing)
    assert dropped(folder / "stages" / "filter") == {"boilerplate": 1, "caption_too_short": 1}
    assert dropped(folder / "stages" / "match") == {"no_query": len(nothing) - 2}
    assert dropped(folder / "stages" / "fetch") == {"unreadable_image": 1}
    assert sum(dropped(folder).values()) + len(ShardSet.open(folder)) == len(CAPTIONS) + 2


def test_matches_are_those_of_a_plain_search_the_cap_holds_and_the_tail_is_whole(
    small: Small,
) -> None:
    """From the tables of the stages; the caption with a telephone number was scrubbed before."""
    folder = small[1] / "stages"
    queries = read_table(folder / "queries" / "queries.parquet")["query"].to_pylist()
    matched: Counter[int] = Counter()
    drawn: Counter[int] = Counter()
    for number in range(3):
        captions, found, kept = (
            read_table(folder / stage / f"{number:05d}.parquet").to_pylist()
            for stage in ("filter", "match", "balance")
        )
        ids = {row["row"]: row["ids"] for row in found}
        for row in captions:
            found_queries = {queries[query] for query in ids.get(row["row"], [])}
            assert found_queries == expected_matches(row["caption"]), row["caption"]
        matched.update(itertools.chain(*(row["ids"] for row in found)))
        drawn.update(itertools.chain(*(row["ids"] for row in kept)))
    assert max(matched.values()) > 4
    assert drawn == Counter({query: min(count, 4) for query, count in matched.items()})


def test_the_set_holds_images_captions_and_their_queries(small: Small) -> None:
    pairs = {pair.key: pair for pair in ShardSet.open(small[1]).pairs(Counts())}
    assert "broken" not in pairs and not {"pair-0", "double"} <= pairs.keys()
    frying = pairs["pair-12"]
    assert frying.image == jpeg(12)
    assert "frying pan" in str(frying.fields["queries"]).split(" | ")
    assert frying.fields["sha256"] == hashlib.sha256(jpeg(12)).hexdigest()
    assert not any("555" in text for pair in pairs.values() for text in pair.captions)


def test_the_card_tells_what_the_manifests_count(small: Small) -> None:
    card = json.loads((small[1] / "datacard.json").read_text())
    pairs = list(ShardSet.open(small[1]).pairs(Counts()))
    assert card["pairs"] == len(pairs)
    assert card["flow"][0]["stage"] == "candidates"
    for before, after in itertools.pairwise(card["flow"]):
        assert before["out"] == after["in"], after["stage"]
    assert card["queries"]["by_source"] == dict(sorted(Counter(QUERIES.values()).items()))
    assert card["captions"]["words"] == sum(len(words_of(text)) for pair in pairs for text in pair.captions)
    write_card(small[1])
    page = small[1] / "datacard.html"
    assert "A small world" in page.read_text() and "<script" not in page.read_text()
    page.unlink()  # the folder is compared with those of other runs


def test_a_crawl_with_addresses_is_fetched_and_curated_by_one_command(tmp_path: Path, capsys: Any) -> None:
    """From a dump, page views, a dictionary and a WAT file to shards, through the command line."""
    with FaultServer() as server:
        server.images = {f"/{n}.jpg": jpeg(n) for n in range(4)}
        address = server.url("/", "127.0.0.1")
        texts = ["a brown dog", "the black cat", "a dog", "x"]
        images = [(f"{address}{n}.jpg", text) for n, text in enumerate(texts)]
        others = [(f"{address}status/404", "a cat"), ("http://10.0.0.1/a.jpg", "a dog at home"), images[0]]
        pages = [
            crawl_files.WebPage(f"http://site{n}.example/p", images=[image])
            for n, image in enumerate(images + others)
        ]
        recipe = worlds.recipe(
            queries=worlds.write_sources(tmp_path),
            candidates={"sources": [str(crawl_files.write_wat(tmp_path / "CC-MAIN.warc.wat.gz", pages))]},
            fetch={"allow_ports": [server.port]},
        )
        (tmp_path / "world.toml").write_text(toml_of(to_mapping(recipe)))
        words = ["curate", str(tmp_path / "world.toml"), "--out", str(tmp_path / "out"), "--workers", "1"]
        assert main(words) == 0
    stages = json.loads(capsys.readouterr().out)
    assert stages["filter"]["dropped"]["caption_too_short"] == 1
    assert stages["fetch"]["dropped"] == {"forbidden_address": 1, "http_client_error": 1}
    pairs = {pair.captions[0]: pair for pair in ShardSet.open(tmp_path / "out").pairs(Counts())}
    assert sorted(pairs) == ["a brown dog", "a dog", "the black cat"]
    for n, text in enumerate(texts[:3]):
        assert (pairs[text].image, pairs[text].fields["url"]) == (jpeg(n), f"{address}{n}.jpg")


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.deep)])
def test_any_number_of_workers_makes_the_same_bytes(small: Small, fast_path: Path, workers: int) -> None:
    curate(small[0], fast_path / "out", workers=workers)
    assert digests(fast_path / "out") == digests(small[1])


def test_a_task_of_ray_answers_with_counts_or_an_error(small: Small) -> None:
    def answer(number: int) -> dict[str, Any]:
        row = {"folder": str(small[1]), "stage": "match", "number": number}
        return dict(json.loads(partition_on_ray(row)["response"]))

    first = json.loads((small[1] / "stages" / "match" / "00001.json").read_text())
    assert answer(1) == first["counts"]
    assert answer(7)["error"] == "IntegrityError" and answer(7)["what"] == "a table of a stage cannot be read"


@pytest.mark.deep
def test_two_nodes_of_ray_make_the_same_bytes(small: Small, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    recipe, out = tmp_path / "small.toml", tmp_path / "out"
    recipe.write_text(toml_of(to_mapping(small[0])))
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    subprocess.run([sys.executable, "-c", TWO_NODES, recipe, out], env={**os.environ, **paths}, check=True)
    assert digests(out) == digests(small[1])


def test_single_stages_make_the_same_bytes(small: Small, fast_path: Path) -> None:
    with pytest.raises(UsageError, match="needs another one first"):
        curate(small[0], fast_path / "out", only="match")
    for name in STAGES:
        curate(small[0], fast_path / "out", only=name)
    assert digests(fast_path / "out") == digests(small[1])


def test_a_folder_is_only_gone_on_with_by_its_own_recipe(small: Small, tmp_path: Path) -> None:
    recipe, before = small[0], digests(small[1])
    with pytest.raises(UsageError, match="was begun in this folder"):
        curate(*small)
    with pytest.raises(UsageError, match=r"another curation(.|\n)*candidates"):
        curate(worlds.recipe(candidates={"sources": ["scenes:crawl?count=3"]}), small[1], resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        curate(recipe, tmp_path)
    older = json.loads((small[1] / "recipe.json").read_text())
    assert older.pop("format") == FORMAT
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "recipe.json").write_text(json.dumps(older))
    with pytest.raises(UsageError, match="other settings: format"):  # its pairs have keys of another form
        curate(recipe, tmp_path / "older", resume=True)
    curate(*small, resume=True)
    assert digests(small[1]) == before


def test_a_curation_that_looks_for_nothing_is_refused(tmp_path: Path) -> None:
    talk = miniatures.HEADER + miniatures.page("Talk:Dog", "a dog", namespace=1) + miniatures.FOOTER
    for name, text, message in (
        ("talk.xml", talk, "the corpus holds no words"),
        ("rare.txt", "two dogs\n", r"no query is left(.|\n)*min_word_count"),
    ):
        (tmp_path / name).write_text(text)
        parts = {"queries": {"corpus": [str(tmp_path / name)]}, "candidates": {"sources": ["scenes:crawl"]}}
        with pytest.raises(DataError, match=message):
            curate(worlds.recipe(**parts), tmp_path / f"{name}-out", only="queries")


def test_a_curation_that_keeps_nothing_names_reasons_and_settings(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("dog\n")
    rows = [("a", jpeg(0), "a dog"), ("b", jpeg(1), "a dog runs"), ("c", b"no image", "dogs")]
    recipe = worlds.recipe(
        queries={"list": str(tmp_path / "list")},
        candidates={"sources": [str(worlds.write_pairs(tmp_path / "pairs.parquet", rows))]},
        filter={"rules": {"min_side": 500}},
    )
    with pytest.raises(DataError, match="no pair is left") as caught:
        curate(recipe, tmp_path / "out")
    assert caught.value.found == "3 candidates, all dropped (image_too_small 2, no_query 1)"
    assert "filter.rules.min_side, queries.list" in caught.value.fix


def test_every_setting_that_a_refusal_names_exists() -> None:
    recipe = worlds.recipe(candidates={})
    for setting in SETTING_OF.values():
        assert attrgetter(setting)(recipe) is not None, setting


def stopped(fault: str, step: int, recipe: CurateRecipe, out: Path) -> tuple[int, str]:
    """Curate in a forked process that ends, or whose disk fails, at a durable step: its status, message."""
    message = out.with_suffix(".message")
    if (child := os.fork()) == 0:
        os.environ |= {"DIPTYCH_TESTING": "1", "DIPTYCH_FAILPOINT": f"{fault}:{operations() + step}"}
        code = 1
        with contextlib.suppress(BaseException):
            try:
                curate(recipe, out)
                code = 0
            except EnvironmentFault as error:
                message.write_text(str(error))
                code = error.exit_code
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, message.read_text() if message.exists() else ""


@pytest.mark.parametrize(
    ("faults", "first", "stride"),
    [
        (("exit",), 5, 83),
        (("enospc", "eio"), 3, 107),
        pytest.param(("exit",), 1, 1, marks=pytest.mark.deep),
        pytest.param(("enospc", "eio"), 1, 3, marks=pytest.mark.deep),
    ],
)
def test_a_fault_at_a_durable_step_costs_nothing_but_time(
    small: Small, fast_path: Path, faults: Sequence[str], first: int, stride: int
) -> None:
    """A kill, a full disk or a broken one at one step after the other, until no step is left."""
    recipe, whole = small[0], digests(small[1])
    for turn, step in enumerate(itertools.count(first, stride)):
        out, fault = fast_path / f"out{step}", faults[turn % len(faults)]
        code, message = stopped(fault, step, recipe, out)
        if code == 0:
            assert step > 300
            return
        assert code == (137 if fault == "exit" else EnvironmentFault.exit_code), (fault, step)
        assert fault == "exit" or str(fast_path) in message, message
        assert fault != "enospc" or "bytes free" in message, message
        curate(recipe, out, resume=True)
        assert digests(out) == whole, step
        assert not list(out.rglob(f"{TEMP_PREFIX}*")), step


@pytest.mark.deep
def test_kills_at_random_moments_cost_nothing_but_time(small: Small, tmp_path: Path) -> None:
    """Fifty SIGKILLs to a command and its two workers, at any moment of it."""
    path, dice, kills, turn = tmp_path / "small.toml", random.Random(11), 0, 0
    path.write_text(toml_of(to_mapping(small[0])))
    while kills < 50:
        turn += 1
        out, killed = tmp_path / f"out{turn}", True
        while killed:
            words = ["curate", path, "--out", out, "--workers", "2", "--resume"]
            command, silent = [sys.executable, "-m", "diptych.cli.main", *words], subprocess.DEVNULL
            process = subprocess.Popen(command, stdout=silent, stderr=silent, start_new_session=True)
            time.sleep(dice.uniform(0.3, 6.0))
            killed = process.poll() is None
            if killed:
                os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == (-signal.SIGKILL if killed else 0)
            kills += killed
        assert (out / "datacard.html").stat().st_size > 1000  # the command draws it, `curate` itself does not
        (out / "datacard.html").unlink()
        assert digests(out) == digests(small[1])
        assert not list(out.rglob(f"{TEMP_PREFIX}*"))
