"""What photos say about themselves, and the images inside HEIC and RAW files."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import BadSampleError
from diptych.models.model import Model
from diptych.search.add import add
from diptych.search.index import Index
from diptych.search.photos import describe, has_own_decoder, preview
from diptych.search.query import Searcher

from .conftest import MakePhoto

XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>
 <rdf:Description xmp:CreateDate="2019-02-03T04:05:06+01:00"
 tiff:Model="X-T5" exif:GPSLatitude="48,12.5N" exif:GPSLongitude="16,22,30W"/></rdf:RDF></x:xmpmeta>"""


def test_facts_of_exif(make_photo: MakePhoto) -> None:
    data = make_photo(0, taken="2024:05:31 18:04:00", camera="Pixel 8\0 ", place=(-33.8568, 151.2153))
    facts = describe(data)
    assert (facts["taken"], facts["camera"]) == ("2024-05-31T18:04:00", "Pixel 8")
    assert (facts["latitude"], facts["longitude"]) == pytest.approx((-33.8568, 151.2153), abs=1e-5)
    assert (facts["width"], facts["height"], facts["format"], facts["bytes"]) == (36, 24, "JPEG", len(data))


def test_xmp_counts_where_exif_is_silent(make_photo: MakePhoto) -> None:
    for data, camera in ((make_photo(0), "X-T5"), (make_photo(0, camera="Pixel 8"), "Pixel 8")):
        image, file = Image.open(io.BytesIO(data)), io.BytesIO()
        image.save(file, "JPEG", exif=image.getexif(), xmp=XMP)
        facts = describe(file.getvalue())
        assert (facts["taken"], facts["camera"]) == ("2019-02-03T04:05:06", camera)
        assert (facts["latitude"], facts["longitude"]) == pytest.approx((48.208333, -16.375), abs=1e-5)


@pytest.mark.parametrize(
    "date", ["0000:00:00 00:00:00", "2024:13:01 00:00:00", "yesterday", "    :  :     :  :  "]
)
def test_a_date_that_is_none_is_left_empty(make_photo: MakePhoto, date: str) -> None:
    assert "taken" not in describe(make_photo(0, taken=date))


def test_mutated_photos_raise_nothing(make_photo: MakePhoto) -> None:
    data = make_photo(1, taken="2024:05:31 18:04:00", camera="Pixel", place=(1.5, 2.5))
    draw = np.random.default_rng(0)
    for _ in range(2000):
        changed = bytearray(data)
        for at in draw.integers(0, 400, 3):
            changed[at] = draw.integers(256)
        facts = describe(bytes(changed))
        assert facts["bytes"] == len(data)
        assert len(facts.get("taken", "")) in (0, 19)


def test_heic_files_are_read_upright_with_their_facts(
    make_photo: MakePhoto, model: Model, tmp_path: Path
) -> None:
    heif = pytest.importorskip("pillow_heif")
    original = Image.open(io.BytesIO(make_photo(2, taken="2023:01:02 03:04:05", camera="iPhone"))).resize(
        (64, 48)
    )
    exif = original.getexif()
    file = io.BytesIO()
    heif.from_pillow(original).save(file, quality=-1, exif=exif.tobytes())
    folder = tmp_path / "only heic"
    folder.mkdir()
    (folder / "a.HEIC").write_bytes(file.getvalue())
    (folder / "broken.heic").write_bytes(file.getvalue()[:200])
    index = Index.create(tmp_path / "i", model, "tiny")
    report = add(index, model, [folder])
    assert (report.added, dict(report.counts.dropped)) == (1, {"unreadable_image": 1})
    item = next(index.items())
    assert (item.taken, item.camera, item.format) == ("2023-01-02T03:04:05", "iPhone", "HEIF")
    assert (item.width, item.height) == (64, 48)
    hits = Searcher(model, index).search(folder / "a.HEIC", k=1)
    assert hits[0].score == pytest.approx(1, abs=2e-3)
    image, _ = preview(file.getvalue(), folder / "a.HEIC")
    assert isinstance(image, Image.Image)
    assert (
        np.abs(np.asarray(image, int) - np.asarray(original, int)).mean() < 8
    )  # of noise, which a lossy file cannot hold


def test_raw_files_that_are_none_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    assert has_own_decoder(Path("a.CR2"))
    with pytest.raises(BadSampleError):
        preview(b"II*\0 no raw file", Path("a.cr2"))
