"""Indexing: what is new, changed, moved and gone is recognised, and the counts balance."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import IntegrityError, UsageError
from diptych.data.sources import rows
from diptych.models.encode import encode_images
from diptych.models.model import Model
from diptych.search import add as adding
from diptych.search.add import Report, add, remove
from diptych.search.index import Index
from diptych.search.query import Searcher

from .conftest import MakeModel, MakePhoto


class Counting:
    """Counts the images that go through a model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images, whole = 0, adding.image_batches

        def counted(*args: object, **options: object) -> object:
            for batch, bad in whole(*args, **options):  # type: ignore[arg-type]
                self.images += len(batch) - len(bad)
                yield batch, bad

        monkeypatch.setattr(adding, "image_batches", counted)

    def take(self) -> int:
        count, self.images = self.images, 0
        return count


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def figures(report: Report) -> tuple[int, int, int, int]:
    assert report.counts.kept == report.added + report.moved + report.unchanged
    assert report.counts.seen == report.counts.kept + report.counts.dropped.total()
    return report.added, report.moved, report.unchanged, report.vanished


def keys(index: Index) -> list[str]:
    return sorted(place.key for item in index.items() for place in item.places)


def test_a_folder_as_people_have_them(model: Model, photos: Path, tmp_path: Path, embedded: Counting) -> None:
    index = Index.create(tmp_path / "i", model, "tiny")
    report = add(index, model, [photos])
    assert figures(report) == (5, 0, 0, 0)
    assert embedded.take() == 5
    assert keys(index) == ["2024/Zürich été/d 1.jpg", "2024/c.jpg", "a.jpg", "b.JPG", "x/y/e.jpeg"]
    assert dict(report.counts.dropped) == {"truncated_image": 1, "unreadable_image": 1}
    assert sorted(report.bad) == [
        (str(photos / "broken.jpg"), "truncated_image"), (str(photos / "empty.png"), "unreadable_image")
    ]  # fmt: skip
    item = next(item for item in index.items() if item.places[0].key == "2024/c.jpg")
    assert (item.taken, item.year, item.camera) == ("2022-05-06T10:20:30", 2022, "Pixel 2")
    assert (item.width, item.height, item.format) == (36, 24, "JPEG")


def test_a_second_pass_reads_only_what_is_new(
    model: Model, photos: Path, tmp_path: Path, embedded: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.create(tmp_path / "i", model, "tiny")
    add(index, model, [photos])
    (photos / "broken.jpg").unlink()
    (photos / "empty.png").unlink()
    reads: list[str] = []
    whole = rows.read_image
    monkeypatch.setattr(rows, "read_image", lambda path: reads.append(path.name) or whole(path))
    assert figures(add(index, model)) == (0, 0, 5, 0)
    assert reads == []
    manifest = (tmp_path / "i" / "manifest.json").read_bytes()
    add(index, model)
    assert (tmp_path / "i" / "manifest.json").read_bytes() == manifest
    (photos / "new.jpg").write_bytes((photos / "a.jpg").read_bytes()[:-2] + b"  \xff\xd9")
    embedded.take()
    assert figures(add(index, model)) == (1, 0, 5, 0)
    assert reads == ["new.jpg"]
    assert embedded.take() == 1


def test_moved_copied_changed_and_removed_files(
    model: Model, photos: Path, tmp_path: Path, embedded: Counting, make_photo: MakePhoto
) -> None:
    index = Index.create(tmp_path / "i", model, "tiny")
    add(index, model, [photos])
    embedded.take()
    before = {item.digest: item for item in index.items()}
    (photos / "a.jpg").rename(photos / "2024" / "moved.jpg")
    shutil.copy(photos / "b.JPG", photos / "copy of b.jpg")
    (photos / "2024" / "c.jpg").write_bytes(make_photo(99, taken="1999:12:31 23:59:59"))
    (photos / "x" / "y" / "e.jpeg").unlink()
    report = add(index, model)
    assert figures(report) == (1, 2, 2, 2)  # c is new; moved and the copy are known; b and d stand as before
    assert embedded.take() == 1
    assert keys(index) == [
        "2024/Zürich été/d 1.jpg", "2024/c.jpg", "2024/moved.jpg", "b.JPG", "copy of b.jpg"
    ]  # fmt: skip
    assert len(index) == 4
    copied = next(item for item in index.items() if len(item.places) == 2)
    assert {place.key for place in copied.places} == {"b.JPG", "copy of b.jpg"}
    moved = next(item for item in index.items() if item.places[0].key == "2024/moved.jpg")
    assert before[moved.digest].places[0].key == "a.jpg"
    assert moved.taken == before[moved.digest].taken
    direct = encode_images(model, [photos / "2024" / "moved.jpg"])[0]
    hit = Searcher(model, index).search(photos / "2024" / "moved.jpg", k=1)[0]
    assert hit.key == "2024/moved.jpg"
    assert hit.score == pytest.approx(float((direct * direct).sum()), abs=2e-3)


def test_captions_beside_and_their_change(
    model: Model, photos: Path, tmp_path: Path, embedded: Counting
) -> None:
    (photos / "a.txt").write_text("a red star\n")
    (photos / "b.json").write_text('{"caption": "a blue circle", "price": 12}')
    index = Index.create(tmp_path / "i", model, "tiny")
    add(index, model, [photos])
    embedded.take()
    assert {item.caption for item in index.items()} == {"", "a red star", "a blue circle"}
    (photos / "a.txt").write_text("a green square\n")
    assert figures(add(index, model))[1] == 1
    assert embedded.take() == 0
    assert {item.caption for item in index.items()} == {"", "a green square", "a blue circle"}
    assert sorted(index.columns()) == ["label", "price"]


def test_rows_of_a_table_are_known_by_their_digests(
    model: Model, tmp_path: Path, make_photo: MakePhoto, embedded: Counting
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(make_photo(number))
    table = tmp_path / "t.csv"
    rows = [f"k{n},{n}.jpg,text {n},{n * 10}" for n in range(4)]
    table.write_text("\n".join(["id,image,caption,price", *rows, "k9,none.jpg,gone,0"]) + "\n")
    index = Index.create(tmp_path / "i", model, "tiny")
    report = add(index, model, [table])
    assert figures(report) == (4, 0, 0, 0)
    assert dict(report.counts.dropped) == {"missing_image": 1}
    embedded.take()
    rows[1] = "k1,1.jpg,another text,10"
    rows[2] = "k2,3.jpg,text 2,20"
    table.write_text("\n".join(["id,image,caption,price", *rows[:3]]) + "\n")
    assert figures(add(index, model)) == (0, 2, 1, 1)
    assert embedded.take() == 0
    by_key = {place.key: item for item in index.items() for place in item.places}
    assert sorted(by_key) == ["k0", "k1", "k2"]
    assert by_key["k1"].caption == "another text"
    assert by_key["k1"].fields["price"] == "10"


def test_an_empty_folder_does_not_empty_an_index(model: Model, photos: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", model, "tiny")
    add(index, model, [photos])
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(UsageError, match="holds none"):
        add(index, model)
    photos.rmdir()
    with pytest.raises(UsageError, match="no such source"):
        add(index, model)
    assert len(Index.open(tmp_path / "i")) == 5
    assert remove(index, [photos]) == 5
    assert len(index) == 0
    assert not index.entry.sources


def test_single_files_are_removed_and_come_back(model: Model, photos: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", model, "tiny")
    add(index, model, [photos])
    assert remove(index, [photos / "a.jpg"]) == 1
    assert "a.jpg" not in keys(index)
    with pytest.raises(UsageError, match="nothing of this name"):
        remove(index, [photos / "a.jpg"])
    assert figures(add(index, model)) == (1, 0, 4, 0)


def test_another_model_is_refused_with_both_digests(
    make_model: MakeModel, model: Model, photos: Path, tmp_path: Path
) -> None:
    index = Index.create(tmp_path / "i", model, "tiny")
    other = make_model(2)
    for ask in (lambda: add(index, other, [photos]), lambda: Index.create(tmp_path / "i", other, "other")):
        with pytest.raises(IntegrityError) as error:
            ask()
        assert model.digest in error.value.found
        assert error.value.expected == other.digest
        assert "tiny" in error.value.fix


def test_images_are_read_as_the_index_was_made(model: Model, photos: Path, tmp_path: Path) -> None:
    turned = Image.open(photos / "a.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    (photos / "a.jpg").write_bytes(file.getvalue())
    vectors = {}
    for orientation in ("upright", "stored"):
        index = Index.create(tmp_path / orientation, model.reading(orientation), "tiny")
        add(index, model, [photos])
        hit = Searcher(model, index).search(photos / "a.jpg", k=1)[0]
        assert (hit.key, hit.score) == ("a.jpg", pytest.approx(1, abs=2e-3))
        vectors[orientation] = Searcher(model, index)._row_of("a.jpg")
    assert not np.array_equal(vectors["upright"], vectors["stored"])
