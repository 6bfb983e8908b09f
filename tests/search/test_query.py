"""Queries: parsed, summed, filtered, fused with words; exact against a full sort."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import UsageError
from diptych.core.records import Need
from diptych.data.sources.open import open_source
from diptych.models.encode import encode_images, encode_texts
from diptych.models.model import Model
from diptych.search.add import add
from diptych.search.index import Index
from diptych.search.query import Searcher, Term, parse_query, read_images

SCENES = "scenes:test?count=60&seed=3"


@pytest.fixture(scope="module")
def searcher(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    index = Index.create(tmp_path_factory.mktemp("index") / "i", model, "tiny")
    add(index, model, [SCENES])
    return Searcher(model, index)


@pytest.fixture(scope="module")
def embeds(model: Model) -> tuple[list[str], np.ndarray]:
    from diptych.core.records import Counts

    pairs = list(open_source(SCENES, need=Need.IMAGE).pairs(Counts()))
    return [pair.key for pair in pairs], encode_images(model, pairs)


def test_parse_query() -> None:
    def parsed(text: str) -> list[tuple[float, str, str]]:
        return [(term.weight, term.text, term.like) for term in parse_query(text)]

    assert parsed("a cat - asleep") == [(1, "a cat", ""), (-1, "asleep", "")]
    assert parsed("beach + 0.5: sunset - 2:crowd") == [
        (1, "beach", ""),
        (0.5, "sunset", ""),
        (-2, "crowd", ""),
    ]
    assert parsed('"a + b" + well-known') == [(1, "a + b", ""), (1, "well-known", "")]
    assert parsed("like: a/b.jpg - snow") == [(1, "", "a/b.jpg"), (-1, "snow", "")]
    assert parsed("ratio 3:4") == [(1, "ratio 3:4", "")]
    for text in ("a + ", " + a", '""'):
        with pytest.raises(UsageError, match="empty term"):
            parse_query(text)
    with pytest.raises(UsageError, match="no such image"):
        parse_query("none.jpg")


def test_a_text_finds_what_a_full_sort_of_cosines_finds(
    searcher: Searcher, model: Model, embeds: tuple[list[str], np.ndarray]
) -> None:
    keys, rows = embeds
    for text in ("a red circle", "zzz"):
        cosines = rows @ encode_texts(model, [text])[0]
        hits = searcher.search(text, 7, by="images")
        expected = np.sort(cosines)[::-1][:7]
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-3)
        assert all(abs(hit.score - cosines[keys.index(hit.key)]) < 1e-3 for hit in hits)


def test_terms_are_summed_with_their_weights(
    searcher: Searcher, model: Model, embeds: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    keys, rows = embeds
    red, star = encode_texts(model, ["red", "a star"])
    total = 2 * red - 0.5 * star + rows[4]
    cosines = rows @ (total / np.linalg.norm(total))
    hits = searcher.search(f"2:red - .5:a star + like:{keys[4]}", 60)
    by_key = {hit.key: hit.score for hit in hits}
    assert [by_key[key] for key in keys] == pytest.approx(cosines, abs=2e-3)
    image = Image.new("RGB", (50, 40), "red")
    image.save(tmp_path / "a.png")
    direct = encode_images(model, [image])[0]
    for query in (str(tmp_path / "a.png"), tmp_path / "a.png", image, (Term(1.0, image=image),)):
        best = searcher.search(query, 1)[0]
        assert best.score == pytest.approx(float((rows @ direct).max()), abs=2e-3)


def test_a_filter_leaves_the_best_of_those_it_holds_for(
    searcher: Searcher, embeds: tuple[list[str], np.ndarray]
) -> None:
    whole = searcher.search("a red circle", 60, by="images")
    assert len(whole) == 60
    for where in ("caption like '%star%'", "not caption like '%star%'", "width < 0"):
        star = {"caption like": True, "not caption l": False}.get(where[:13])
        star = True if where.startswith("caption") else star
        kept = [hit for hit in whole if star is not None and ("star" in hit.caption) == star]
        hits = searcher.search("a red circle", 5, where=where, by="images")
        assert [(hit.key, hit.score) for hit in hits] == [(hit.key, hit.score) for hit in kept[:5]]
    with pytest.raises(UsageError, match="unknown name"):
        searcher.search("x", where="colour = 'red'")


def test_words_are_fused_by_ranks(searcher: Searcher) -> None:
    named = searcher.search("red star", 60, by="words")
    assert named
    assert all("red" in hit.caption.lower() and "star" in hit.caption.lower() for hit in named)
    nearest = [hit.key for hit in searcher.search("red star", 60, by="images")]
    fused = [hit.key for hit in searcher.search("red star", 60)]
    named_keys = [hit.key for hit in named]
    worth = {
        key: 1 / (61 + nearest.index(key)) + (1 / (61 + named_keys.index(key)) if key in named_keys else 0)
        for key in nearest
    }
    assert [worth[key] for key in fused] == pytest.approx(sorted(worth.values(), reverse=True))
    assert [hit.key for hit in searcher.search("qqq vvv", 9)] == [
        hit.key for hit in searcher.search("qqq vvv", 9, by="images")
    ]
    for odd in ('"', "a AND", "NEAR(", "star* OR", "'; --"):
        searcher.search(f"x{odd}", 3)


@pytest.mark.parametrize("query", ["", "  ", (Term(1.0, text="red"), Term(-1.0, text="red")), b"no image"])
def test_a_query_that_says_nothing_is_refused(searcher: Searcher, query: object) -> None:
    with pytest.raises(UsageError):
        searcher.search(query)  # type: ignore[arg-type]


def test_arguments_are_checked(searcher: Searcher) -> None:
    for options in ({"k": 0}, {"k": True}, {"by": "word"}):
        with pytest.raises(UsageError):
            searcher.search("red", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no image of this name"):
        searcher.search("like:none")


def test_images_of_hits_are_read_where_they_stand(
    model: Model, photos: Path, tmp_path: Path, searcher: Searcher
) -> None:
    from diptych.core.records import Counts

    index = Index.create(tmp_path / "i", model, "tiny")
    add(index, model, [photos])
    items = [hit.item for hit in Searcher(model, index).search("x", 9)]
    paths = [Path(item.places[0].path) for item in items]
    assert list(read_images(items)) == [(number, path.read_bytes()) for number, path in enumerate(paths)]
    paths[0].unlink()
    assert [number for number, _ in read_images(items)] == [1, 2, 3, 4]
    drawn = {pair.key: pair.image for pair in open_source(SCENES, need=Need.IMAGE).pairs(Counts())}
    items = [hit.item for hit in searcher.search("x", 4)]
    assert dict(read_images(items)) == {n: drawn[item.places[0].key] for n, item in enumerate(items)}
