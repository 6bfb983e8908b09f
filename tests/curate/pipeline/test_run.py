"""The whole curation on a small world, against a plain recount of what should come out; and what stops it."""

import hashlib
import itertools
import json
import math
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
from tests.curate import crawl_files, miniatures, worlds
from tests.curate.fault_server import FaultServer, jpeg

from diptych.cli.main import main
from diptych.core.errors import DataError, EnvironmentFault, UsageError
from diptych.core.files.durable import TEMP_PREFIX, operations
from diptych.core.manifest import read_manifest
from diptych.core.records import Counts
from diptych.core.settings import dumps_toml, to_mapping
from diptych.curate.pipeline.recipe import SETTING_OF, CurateRecipe
from diptych.curate.pipeline.run import FORMAT, STAGES, curate
from diptych.curate.pipeline.stages import read_table
from diptych.data.shards.reader import ShardSet
from diptych.report.datacard import write_card

PLAIN = (
    "The dog is a pet. A brown dog barks. See a brown dog, a brown dog and a black cat.",
    "A cat sleeps on a red sofa. A black cat purrs. A black cat runs.",
    "Mercury is a planet. Mercury is hot.",
)
"""The articles of `worlds` as a reader sees them, written down by hand."""

CAPTIONS = [
    "A (Dog), asleep", "my hot dog", "BROWN DOG running", "the black cat", "a domestic dog", "dog", "hotdogs",
    "a cat, a dog", "IMG_0001.JPG", "x", "Mercury rising", "call 555-234-5678 for a dog",
    "a  frying\u00a0pan!",
]  # fmt: skip


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def expected_queries() -> dict[str, str]:
    """Count in the plainest way there is."""
    words = Counter(word for text in PLAIN for word in words_of(text))
    pairs = Counter(pair for text in PLAIN for pair in zip(words_of(text), words_of(text)[1:], strict=False))
    total = words.total()
    found = {word: "words" for word, count in words.items() if count >= 3}
    for (one, other), count in pairs.items():
        if count >= 3 and math.log2(count * total / (words[one] * words[other])) >= 1:
            found.setdefault(f"{one} {other}", "bigrams")
    found.setdefault("hot dog", "titles")
    for lemma in ("domestic dog", "frying pan"):
        found.setdefault(lemma, "wordnet")
    return found


def expected_matches(caption: str, queries: list[str]) -> set[str]:
    spaced = f" {' '.join(words_of(caption.replace(chr(160), ' ')))} "
    return {query for query in queries if f" {query} " in spaced}


def digests(folder: Path) -> dict[str, str]:
    """Return what a user gets: shards, index, manifest and card, not the manifests of stages."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def dropped(folder: Path, stage: str) -> dict[str, int]:
    counts = read_manifest(folder / "stages" / stage).counts
    assert counts["in"] == counts["out"] + sum(counts["dropped"].values())
    return dict(counts["dropped"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[CurateRecipe, Path]:
    """A recipe over twelve pairs in three partitions, and what it makes when nothing interrupts it."""
    folder = tmp_path_factory.mktemp("small")
    rows = [(f"pair-{n}", jpeg(n), caption) for n, caption in enumerate(CAPTIONS)]
    rows.append(("double", jpeg(0), "Dogs asleep: a dog"))
    rows.append(("broken", b"\xff\xd8no image", "a dog that nobody sees"))
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


def test_queries_are_those_of_a_plain_count(small: tuple[CurateRecipe, Path]) -> None:
    table = read_table(small[1] / "stages" / "queries" / "queries.parquet")
    found = dict(zip(table["query"].to_pylist(), table["source"].to_pylist(), strict=True))
    assert found == expected_queries()
    assert {"brown dog", "black cat"} <= {name for name, source in found.items() if source == "bigrams"}


def test_every_candidate_ends_where_it_should(small: tuple[CurateRecipe, Path]) -> None:
    folder = small[1]
    assert dropped(folder, "filter") == {"boilerplate": 1, "caption_too_short": 1}
    names = list(expected_queries())
    nothing = [
        caption
        for caption in CAPTIONS
        if not expected_matches(caption, names) and caption not in ("x", "IMG_0001.JPG")
    ]
    assert dropped(folder, "match") == {"no_query": len(nothing)}
    assert dropped(folder, "fetch") == {"unreadable_image": 1}
    whole = read_manifest(folder).counts
    assert whole["in"] == len(CAPTIONS) + 2
    assert whole["in"] == whole["out"] + sum(whole["dropped"].values())


def test_matches_are_those_of_a_plain_search(small: tuple[CurateRecipe, Path]) -> None:
    """From the tables of the stages; the caption with a telephone number was scrubbed before."""
    folder, names = small[1] / "stages", list(expected_queries())
    queries = read_table(folder / "queries" / "queries.parquet")["query"].to_pylist()
    for partition in ("00000", "00001", "00002"):
        captions = read_table(folder / "filter" / f"{partition}.parquet")
        found = read_table(folder / "match" / f"{partition}.parquet")
        rows = dict(zip(found["row"].to_pylist(), found["ids"].to_pylist(), strict=True))
        for row, caption in zip(captions["row"].to_pylist(), captions["caption"].to_pylist(), strict=True):
            assert {queries[query] for query in rows.get(row, [])} == expected_matches(caption, names), (
                caption
            )


def test_the_cap_holds_and_the_tail_is_whole(small: tuple[CurateRecipe, Path]) -> None:
    folder = small[1] / "stages"
    matched: Counter[int] = Counter()
    drawn: Counter[int] = Counter()
    for partition in ("00000", "00001", "00002"):
        for stage, counter in (("match", matched), ("balance", drawn)):
            for ids in read_table(folder / stage / f"{partition}.parquet")["ids"].to_pylist():
                counter.update(ids)
    assert max(matched.values()) > 4
    assert drawn == Counter({query: min(count, 4) for query, count in matched.items()})


def test_the_set_holds_images_captions_and_their_queries(small: tuple[CurateRecipe, Path]) -> None:
    pairs = {pair.key: pair for pair in ShardSet.open(small[1]).pairs(Counts())}
    assert "broken" not in pairs
    frying = pairs["pair-12"]
    assert frying.image == jpeg(12)
    assert "frying pan" in str(frying.fields["queries"]).split(" | ")
    assert frying.fields["sha256"] == hashlib.sha256(jpeg(12)).hexdigest()
    scrubbed = [text for pair in pairs.values() for text in pair.captions if text.startswith("call")]
    assert all("555" not in text for text in scrubbed)
    assert not {"pair-0", "double"} <= pairs.keys()


def test_the_card_tells_what_the_manifests_count(small: tuple[CurateRecipe, Path]) -> None:
    card = json.loads((small[1] / "datacard.json").read_text())
    assert card["pairs"] == len(ShardSet.open(small[1]))
    assert next(row["stage"] for row in card["flow"]) == "candidates"
    for before, after in zip(card["flow"], card["flow"][1:], strict=False):
        assert before["out"] == after["in"], after["stage"]
    assert card["queries"]["by_source"] == dict(sorted(Counter(expected_queries().values()).items()))
    assert card["captions"]["words"] == sum(
        len(words_of(text)) for pair in ShardSet.open(small[1]).pairs(Counts()) for text in pair.captions
    )
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
        images += [(f"{address}status/404", "a cat"), ("http://10.0.0.1/a.jpg", "a dog at home")]
        pages = [
            crawl_files.WebPage(f"http://site{n}.example/p", images=[image])
            for n, image in enumerate([*images, images[0]])
        ]
        wat = crawl_files.write_wat(tmp_path / "CC-MAIN.warc.wat.gz", pages)
        recipe = worlds.recipe(
            queries=worlds.write_sources(tmp_path),
            candidates={"sources": [str(wat)]},
            fetch={"allow_ports": [server.port]},
        )
        (tmp_path / "world.toml").write_text(dumps_toml(to_mapping(recipe)))
        words = ["curate", str(tmp_path / "world.toml"), "--out", str(tmp_path / "out"), "--workers", "1"]
        assert main(words) == 0
    stages = json.loads(capsys.readouterr().out)
    assert stages["filter"]["dropped"]["caption_too_short"] == 1
    assert stages["fetch"]["dropped"] == {"forbidden_address": 1, "http_client_error": 1}
    pairs = list(ShardSet.open(tmp_path / "out").pairs(Counts()))
    assert sorted(pair.captions[0] for pair in pairs) == ["a brown dog", "a dog", "the black cat"]
    assert {pair.image for pair in pairs} == {jpeg(n) for n in range(3)}
    assert all(str(pair.fields["url"]).startswith(address) for pair in pairs)


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_makes_the_same_bytes(
    small: tuple[CurateRecipe, Path], tmp_path: Path, workers: int
) -> None:
    curate(small[0], tmp_path / "out", workers=workers)
    assert digests(tmp_path / "out") == digests(small[1])


def test_single_stages_make_the_same_bytes(small: tuple[CurateRecipe, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs another one first"):
        curate(small[0], tmp_path / "out", only="match")
    for name in STAGES:
        curate(small[0], tmp_path / "out", only=name)
    assert digests(tmp_path / "out") == digests(small[1])


def test_a_folder_is_only_gone_on_with_by_its_own_recipe(
    small: tuple[CurateRecipe, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="was begun in this folder"):
        curate(small[0], small[1])
    other = worlds.recipe(candidates={"sources": ["scenes:crawl?count=3"]})
    with pytest.raises(UsageError, match="another curation") as caught:
        curate(other, small[1], resume=True)
    assert "candidates" in caught.value.found
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        curate(small[0], tmp_path)
    older = json.loads((small[1] / "recipe.json").read_text())
    assert older.pop("format") == FORMAT
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "recipe.json").write_text(json.dumps(older))
    with pytest.raises(UsageError, match="other settings: format"):  # its pairs have keys of another form
        curate(small[0], tmp_path / "older", resume=True)
    before = digests(small[1])
    curate(small[0], small[1], resume=True)
    assert digests(small[1]) == before


def test_a_curation_that_looks_for_nothing_is_refused(tmp_path: Path) -> None:
    talk = miniatures.HEADER + miniatures.page("Talk:Dog", "a dog", namespace=1) + miniatures.FOOTER
    (tmp_path / "talk.xml").write_text(talk)
    candidates = {"sources": ["scenes:crawl?count=3"]}
    recipe = worlds.recipe(queries={"corpus": [str(tmp_path / "talk.xml")]}, candidates=candidates)
    with pytest.raises(DataError, match="the corpus holds no words"):
        curate(recipe, tmp_path / "talk", only="queries")
    (tmp_path / "rare.txt").write_text("two dogs\n")
    recipe = worlds.recipe(queries={"corpus": [str(tmp_path / "rare.txt")]}, candidates=candidates)
    with pytest.raises(DataError, match=r"no query is left(.|\n)*min_word_count"):
        curate(recipe, tmp_path / "rare", only="queries")


def test_a_curation_that_keeps_nothing_names_reasons_and_settings(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("dog\n")
    rows = [("a", jpeg(0), "a dog"), ("b", jpeg(1), "a dog runs"), ("c", b"no image", "dogs")]
    pairs = worlds.write_pairs(tmp_path / "pairs.parquet", rows)
    recipe = worlds.recipe(
        queries={"list": str(tmp_path / "list")},
        candidates={"sources": [str(pairs)]},
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


def _stopped(fault: str, step: int, recipe: CurateRecipe, out: Path) -> tuple[int, str]:
    """Curate in a forked process that a durable step ends, or whose disk fails there; return its status and
    message.
    """
    message = out.with_suffix(".message")
    child = os.fork()
    if child == 0:
        os.environ |= {"DIPTYCH_TESTING": "1", "DIPTYCH_FAILPOINT": f"{fault}:{operations() + step}"}
        try:
            curate(recipe, out)
        except EnvironmentFault as error:
            message.write_text(str(error))
            os._exit(EnvironmentFault.exit_code)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, message.read_text() if message.exists() else ""


@pytest.mark.parametrize(
    ("faults", "first", "stride"),
    [
        (("exit",), 5, 47),
        (("enospc", "eio"), 3, 71),
        pytest.param(("exit",), 1, 1, marks=pytest.mark.deep),
        pytest.param(("enospc", "eio"), 1, 3, marks=pytest.mark.deep),
    ],
)
def test_a_fault_at_a_durable_step_costs_nothing_but_time(
    small: tuple[CurateRecipe, Path], tmp_path: Path, faults: Sequence[str], first: int, stride: int
) -> None:
    """A kill, a full disk or a broken one at one step after the other, until no step is left."""
    recipe, whole = small[0], digests(small[1])
    for turn, step in enumerate(itertools.count(first, stride)):
        out, fault = tmp_path / f"out{step}", faults[turn % len(faults)]
        code, message = _stopped(fault, step, recipe, out)
        if code == 0:
            assert step > 300
            return
        assert code == (137 if fault == "exit" else EnvironmentFault.exit_code), (fault, step)
        assert fault == "exit" or str(tmp_path) in message, message
        assert fault != "enospc" or "bytes free" in message, message
        curate(recipe, out, resume=True)
        assert digests(out) == whole, step
        assert not list(out.rglob(f"{TEMP_PREFIX}*")), step


@pytest.mark.deep
def test_kills_at_random_moments_cost_nothing_but_time(
    small: tuple[CurateRecipe, Path], tmp_path: Path
) -> None:
    """Fifty SIGKILLs to a command and its two workers, at any moment of it."""
    recipe, whole = small[0], digests(small[1])
    path = tmp_path / "small.toml"
    path.write_text(dumps_toml(to_mapping(recipe)))
    dice, kills, turn = random.Random(11), 0, 0
    while kills < 50:
        turn += 1
        out = tmp_path / f"out{turn}"
        while True:
            words = ["curate", str(path), "--out", str(out), "--workers", "2", "--resume"]
            process = subprocess.Popen(
                [sys.executable, "-m", "diptych.cli.main", *words],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(dice.uniform(0.3, 6.0))
            if process.poll() is not None:
                assert process.returncode == 0
                break
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        assert (out / "datacard.html").stat().st_size > 1000  # the command draws it, `curate` itself does not
        assert {name: digest for name, digest in digests(out).items() if name != "datacard.html"} == whole
        assert not list(out.rglob(f"{TEMP_PREFIX}*"))
