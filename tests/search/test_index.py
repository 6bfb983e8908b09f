"""Index and searcher: exactness, caching, refusals, damage."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DataError, IntegrityError, UsageError
from diptych.core.manifest import FileEntry, read_manifest
from diptych.core.records import Counts, Pair
from diptych.data.images.transforms import Preprocess
from diptych.data.synthetic.dataset import scene_pairs
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.encode import encode_images, encode_texts
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, TextConfig, VitConfig
from diptych.search import query as searcher
from diptych.search.index import Index
from diptych.search.query import Searcher, top_k


class Drawn:
    """Some scenes, one of them not a picture."""

    def __init__(self, seed: int = 0, *, broken: int | None = 3) -> None:
        self.name, self._seed, self._broken, self.reads = f"drawn {seed}", seed, broken, 0

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        self.reads += 1
        for number, pair in enumerate(scene_pairs(20, seed=self._seed)):
            yield Pair(pair.key, b"broken", pair.captions) if number == self._broken else pair

    def inputs(self) -> tuple[FileEntry, ...]:
        return (FileEntry(self.name, 0, f"{self._seed:064d}"),)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(
        [pair.captions[0] for pair in scene_pairs(60, seed=0)], size=600, context_length=24
    )


def make_model(tokenizer: Tokenizer, seed: int) -> Model:
    config = ClipConfig(
        16,
        VitConfig((32, 32), 16, 32, 1, 2),
        TextConfig(24, tokenizer.vocab_size, 32, 1, 2, tokenizer.start_id, tokenizer.end_id),
    )
    return Model(build(config, seed=seed), tokenizer, Preprocess(size=(32, 32)))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Model:
    return make_model(tokenizer, 1)


def test_hits_are_what_a_full_sort_of_cosines_gives(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, Drawn(broken=None), tmp_path / "index", dtype="float32")
    assert np.load(tmp_path / "index" / "vectors.npy").dtype == np.float32
    pairs = list(scene_pairs(20, seed=0))
    images = encode_images(model, [pair.image for pair in pairs])
    cosines = images @ encode_texts(model, ["a red circle"])[0]
    hits = Searcher(model, index).text("a red circle", k=7)
    assert [hit.key for hit in hits] == [pairs[row].key for row in np.argsort(-cosines, kind="stable")[:7]]
    assert [hit.score for hit in hits] == pytest.approx(sorted(cosines, reverse=True)[:7], abs=1e-5)
    assert pairs[hits[0].position].captions[0] == hits[0].caption


def test_a_picture_finds_itself_as_file_and_as_picture(model: Model, tmp_path: Path) -> None:
    search = Searcher(model, Index.build(model, Drawn(), tmp_path / "index"))
    pair = list(scene_pairs(20, seed=0))[5]
    for query in (pair.image, Image.open(io.BytesIO(pair.image)).convert("RGB")):
        first = search.image(query, k=3)[0]
        assert first.key == pair.key
        assert first.score == pytest.approx(1, abs=2e-3)


def test_unreadable_pictures_are_counted_and_left_out(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, Drawn(broken=3), tmp_path / "index", batch_size=4)
    assert len(index.entries) == len(index.vectors) == 19
    assert [entry.position for entry in index.entries] == [n for n in range(20) if n != 3]
    assert index.manifest.counts["in"] == 20
    assert index.manifest.counts["dropped"] == {"unreadable_image": 1}
    assert {entry.name for entry in read_manifest(index.folder, "index").outputs} == {
        "vectors.npy",
        "entries.jsonl",
    }


def test_an_index_is_reused_until_model_source_or_settings_change(
    model: Model, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = Drawn()
    Index.build(model, source, tmp_path / "index")
    Index.build(model, source, tmp_path / "index")
    assert source.reads == 1
    Index.build(model, source, tmp_path / "index", dtype="float32")
    assert source.reads == 2
    other = make_model(tokenizer, 2)
    assert Index.build(other, source, tmp_path / "index", dtype="float32").model_digest == other.digest
    assert source.reads == 3
    moved = Drawn(seed=8)
    assert (
        Index.build(other, moved, tmp_path / "index", dtype="float32").manifest.extra["source"] == "drawn 8"
    )


def test_an_index_of_the_format_without_paths_is_refused_and_built_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Drawn()
    with monkeypatch.context() as before:
        before.setattr("diptych.search.index.FORMAT", 1)
        Index.build(model, source, tmp_path / "index")
    with pytest.raises(UsageError, match="found format 1, expected format 2"):
        Index.open(tmp_path / "index")
    assert Index.build(model, source, tmp_path / "index").manifest.format == 2
    assert source.reads == 2


def test_another_models_index_is_refused_with_both_digests(
    model: Model, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    index = Index.build(model, Drawn(), tmp_path / "index")
    other = make_model(tokenizer, 2)
    with pytest.raises(IntegrityError) as caught:
        Searcher(other, index)
    assert model.digest in str(caught.value)
    assert other.digest in str(caught.value)


def test_every_damaged_byte_is_noticed_before_it_is_used(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Index.build(model, Drawn(), folder)
    rng = np.random.default_rng(0)
    for name in ("vectors.npy", "entries.jsonl", "manifest.json"):
        whole = (folder / name).read_bytes()
        for _ in range(20):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            (folder / name).write_bytes(damaged)
            with pytest.raises(IntegrityError):
                Index.open(folder)
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(IntegrityError):
            Index.open(folder)
        (folder / name).write_bytes(whole)
    Index.open(folder)


def test_a_folder_that_is_no_index_is_never_replaced(model: Model, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError):
        Index.build(model, Drawn(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_source_without_readable_pictures_leaves_no_index(model: Model, tmp_path: Path) -> None:
    class Empty(Drawn):
        def pairs(self, counts: Counts) -> Iterator[Pair]:
            yield Pair("a", b"broken", ("a",))

    with pytest.raises(DataError, match="nothing to search"):
        Index.build(model, Empty(), tmp_path / "index")
    assert not (tmp_path / "index").exists()
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_query_and_an_empty_list_are_usage_errors(model: Model, tmp_path: Path) -> None:
    search = Searcher(model, Index.build(model, Drawn(), tmp_path / "index"))
    with pytest.raises(UsageError, match="cannot be read"):
        search.image(b"no picture")
    with pytest.raises(UsageError, match="k is not a count"):
        search.text("a", k=0)
    assert len(search.text("a", k=10**6)) == 19


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_top_k_equals_a_full_stable_sort_in_any_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(searcher, "BLOCK_ROWS", block)
    for case in range(50):
        rng = np.random.default_rng(case)
        vectors = rng.integers(-2, 3, size=(rng.integers(1, 40), 3)).astype(np.float16)
        query, k = rng.integers(-2, 3, size=3).astype(np.float32), int(rng.integers(1, 50))
        full = vectors.astype(np.float32) @ query
        rows, scores = top_k(query, vectors, k)
        expected = sorted(range(len(full)), key=lambda row: (-full[row], row))[:k]
        assert rows.tolist() == expected
        assert scores.tolist() == full[expected].tolist()
        assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
