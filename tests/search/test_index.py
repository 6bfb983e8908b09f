"""The index on disk: equal to an oracle after any operations, whole after any crash, refused when damaged."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ArrayError, IntegrityError, UsageError
from diptych.core.files.durable import KILLED, operations
from diptych.core.manifest import MANIFEST_NAME
from diptych.search import index as indexes
from diptych.search.index import Change, Index
from diptych.search.items import Item, Place
from diptych.search.scan import top_k

WIDTH = 16


class Stand:
    """What an index asks a model."""

    digest, config = "a" * 64, SimpleNamespace(embed_dim=WIDTH)
    preprocess = SimpleNamespace(reading={"orientation": "upright", "scaled_jpeg": False})

    def reading(self, orientation: str, *, scaled_jpeg: bool) -> "Stand":
        assert (orientation, scaled_jpeg) == ("upright", False)
        return self


def create(folder: Path) -> Index:
    return Index.create(folder, Stand(), "stand")  # type: ignore[arg-type]


def rows(count: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((count, WIDTH))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def item(name: str, digest: str = "", **facts: Any) -> Item:
    return Item(digest or f"digest of {name}", (Place("/s", name, f"/s/{name}", 3, 7),), **facts)


def nearest(index: Index, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    best = []
    for number, segment in enumerate(index.segments):
        positions, scores = top_k(segment.coded, segment.read, query[None], k, segment.live())[0]
        for row, score in zip(positions.tolist(), scores.tolist(), strict=True):
            best.append((-score, number, row))
    return [
        (next(index.segments[number].items.get([row])).places[0].key, -score)
        for score, number, row in sorted(best)[:k]
    ]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.deep)])
def test_random_operations_give_what_a_plain_table_gives(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "MAX_ROWS", 150)
    draw, index, table = random.Random(seed), create(tmp_path / "i"), {}
    for step in range(120 if seed == 0 else 1000):
        names = [f"{draw.randrange(200)}.jpg" for _ in range(draw.choice((1, 3, 20)))]
        names = list(dict.fromkeys(names))
        action = draw.choice(("add", "add", "add", "remove", "compact", "reopen"))
        if action == "add":
            made = rows(len(names), seed=step)
            index.commit(Change([item(name, f"{name} {step}") for name in names], made))
            table.update(zip(names, made, strict=True))
        elif action == "remove":
            index.commit(Change(vanished=frozenset(("/s", name) for name in names)))
            table = {name: row for name, row in table.items() if name not in names}
        elif action == "compact" and draw.random() < 0.2:
            index.compact()
        else:
            index = Index.open(tmp_path / "i")
        assert len(index) == len(table), step
        query = rows(1, seed=step + 5000)[0].astype(np.float32)
        scores = {name: float((row.astype(np.float64) * query).sum()) for name, row in table.items()}
        hits = nearest(index, query, 5)
        expected = sorted(scores.values(), reverse=True)[:5]
        assert [score for _, score in hits] == pytest.approx(expected, abs=1e-9), step
        assert all(score == pytest.approx(scores[name], abs=1e-9) for name, score in hits), step
    index.verify()
    assert sorted(place.key for known in index.items() for place in known.places) == sorted(table)


def test_equal_images_are_one_item_with_all_their_places(tmp_path: Path) -> None:
    index, made = create(tmp_path / "i"), rows(3)
    index.commit(Change([item("a", "x"), item("b", "x"), item("c", "y")], made))
    assert [[place.key for place in known.places] for known in index.items()] == [["a", "b"], ["c"]]
    index.commit(Change([item("d", "x")], made[:1]))
    index.commit(Change(vanished=frozenset({("/s", "a"), ("/s", "c")})))
    assert [sorted(place.key for place in known.places) for known in index.items()] == [["b", "d"]]
    index.commit(Change([item("b", "z")], made[2:]))  # b was changed
    by_digest = {known.digest: [place.key for place in known.places] for known in index.items()}
    assert by_digest == {"x": ["d"], "z": ["b"]}


@pytest.mark.parametrize("bad", ["nan", "zero", "long", "width"])
def test_rows_that_are_no_directions_are_refused(tmp_path: Path, bad: str) -> None:
    index, made = create(tmp_path / "i"), rows(2)
    changed = {"nan": made * np.float16("nan"), "zero": made * 0, "long": made * 2, "width": made[:, 1:]}[bad]
    with pytest.raises(ArrayError):
        index.commit(Change([item("a"), item("b")], changed))
    assert len(Index.open(tmp_path / "i")) == 0


def test_a_reader_keeps_what_it_opened_while_a_writer_goes_on(tmp_path: Path) -> None:
    index = create(tmp_path / "i")
    index.commit(Change([item(f"{n}") for n in range(50)], rows(50)))
    reader, query = Index.open(tmp_path / "i"), rows(1, 9)[0].astype(np.float32)
    before = nearest(reader, query, 10)
    index.commit(Change(vanished=frozenset(("/s", f"{n}") for n in range(40))))
    index.compact()
    index.commit(Change([item("new")], rows(1, 3)))
    assert nearest(reader, query, 10) == before
    reader.refresh()
    assert len(reader) == 11


# A process that commits portions from several threads, and says so after each.
WRITER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from tests.search.test_index import *
index_folder, (threads, portions, start) = Path(sys.argv[2]), map(int, sys.argv[3:])
def write(number):
    index = create(index_folder)
    for portion in range(portions):
        names = [f"{start}-{number}-{portion}-{n}" for n in range(4)]
        index.commit(Change([item(name) for name in names], rows(4, portion)))
        print(start, number, portion, flush=True)
workers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
"""


def start_writer(folder: Path, threads: int, portions: int, start: int, **environment: str) -> Any:
    words = [sys.executable, "-c", WRITER, str(Path(__file__).parents[2]), str(folder)]
    words += [str(threads), str(portions), str(start)]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment, "DIPTYCH_TESTING": "1"}
    )


def whole_portions(folder: Path) -> set[tuple[str, ...]]:
    """Open an index, and return its portions; each has to be whole."""
    index = Index.open(folder)
    index.verify()
    names = [place.key.rsplit("-", 1)[0] for known in index.items() for place in known.places]
    assert all(names.count(name) == 4 for name in set(names))
    return {tuple(name.split("-")) for name in names}


def test_every_crash_point_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    index = create(tmp_path / "first")
    before = operations()
    index.commit(Change([item(name) for name in "abcd"], rows(4)))
    steps = operations() - before
    assert steps > 15
    for step in range(1, steps + 1):
        folder = tmp_path / f"i{step}"
        create(folder)
        child = os.fork()
        if child == 0:
            os.environ |= {"DIPTYCH_TESTING": "1", "DIPTYCH_FAILPOINT": f"exit:{operations() + step}"}
            Index.open(folder).commit(Change([item(name) for name in "abcd"], rows(4)))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED, step
        index = Index.open(folder)
        index.verify()
        assert len(index) in (0, 4), step
        index.commit(Change([item(name) for name in "abcdef"], rows(6)))
        assert sorted(place.key for known in index.items() for place in known.places) == list("abcdef")
        listed = {segment.entry.name for segment in index.segments}
        assert len(list((folder / "segments").iterdir())) <= len(listed) + 1, step


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.deep)])
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    folder, acknowledged, draw = tmp_path / "i", set(), random.Random(kills)
    create(folder)
    for start in range(kills):
        process = start_writer(folder, 4, 1000, start)
        lines = []
        reading = threading.Thread(target=lambda lines=lines, p=process: lines.extend(p.stdout))
        reading.start()
        while not lines:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        reading.join()
        acknowledged |= {tuple(line.split()) for line in lines if line.endswith("\n")}
        assert acknowledged <= whole_portions(folder)
    assert len(acknowledged) >= kills


def test_readers_see_no_error_while_writers_write(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    create(folder).commit(Change([item(f"0-0-0-{n}") for n in range(4)], rows(4)))
    process = start_writer(folder, 2, 15, 1)
    query, seen = rows(1, 5)[0].astype(np.float32), [0]
    while process.poll() is None:
        index = Index.open(folder)
        assert nearest(index, query, 3)
        assert len(index) >= seen[-1]
        seen.append(len(index))
        index.close()
    process.communicate()
    assert process.returncode == 0
    assert len(whole_portions(folder)) == 31


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.deep)])
def test_every_damage_is_refused(tmp_path: Path, count: int) -> None:
    index = create(tmp_path / "i")
    made = [item(f"{n}", caption=f"a text {n}", fields={"price": n}) for n in range(200)]
    index.commit(Change(made[:150], rows(150)))
    index.commit(Change(made[150:], rows(50)))
    files = sorted(path for path in (tmp_path / "i").rglob("*") if path.is_file())
    draw = random.Random(0)
    for number in range(count):
        path = files[number % len(files)]
        data = path.read_bytes()
        if number % 3 == 0:
            damaged = data[: draw.randrange(len(data))]
        else:
            at = draw.randrange(len(data))
            damaged = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises((IntegrityError, UsageError)):
            opened = Index.open(tmp_path / "i")
            opened.items()
            opened.verify()
        path.write_bytes(data)
    Index.open(tmp_path / "i").verify()


def test_a_vector_file_that_shrinks_or_changes_under_a_reader_is_an_error_and_no_signal(
    tmp_path: Path,
) -> None:
    index = create(tmp_path / "i")
    index.commit(Change([item(f"{n}") for n in range(300)], rows(300)))
    path, query = tmp_path / "i" / "segments" / "000001" / "vectors.npy", rows(1, 5)[0].astype(np.float32)
    with path.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(IntegrityError, match="not what was written"):
        nearest(index, query, 3)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        create(tmp_path / "other")
    with pytest.raises(UsageError, match="it has no manifest"):
        Index.open(tmp_path / "other")
    index = create(tmp_path / "i")
    body = json.loads((index.folder / MANIFEST_NAME).read_text())
    assert body["format"] == 3
    (index.folder / MANIFEST_NAME).write_text(json.dumps({**body, "format": 2}))
    with pytest.raises(IntegrityError):
        Index.open(tmp_path / "i")
