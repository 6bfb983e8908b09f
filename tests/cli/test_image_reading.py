"""One transform in every command: a photo on its side and a large JPEG give the same pixels everywhere."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.cli.conftest import Run, call, done
from tests.data.odd_files import ORIENTATION_TAG, encoded, rgb

import diptych as package
from diptych.data.images.transforms import Preprocess, read_pixels
from diptych.data.loader import Loader, LoaderSettings
from diptych.data.pack import pack
from diptych.data.shards.reader import ShardSet
from diptych.data.sources.open import open_source
from diptych.evaluate.estimator import ZeroShotClassifier
from diptych.models.encode import encode_images
from diptych.models.model import Model
from diptych.search.add import add
from diptych.search.index import Index
from diptych.search.query import Searcher

LABELS = ("heart", "star")
SUITE = """
[[task]]
name = "shapes"
source = "pairs.csv"
labels = "label"
protocols = ["zeroshot", "probe"]
train = "pairs.csv"
"""
COMMANDS = {
    "classify": "classify RUN FILES --labels heart,star",
    "index": "index add NEW TABLE --model RUN",
    "calibrate": "calibrate RUN TABLE --out OUT/calibration.npz",
    "ablate": "ablate RUN TABLE --labels label --templates OUT/templates.txt",
    "evaluate a source": "evaluate RUN TABLE --labels label",
    "evaluate retrieval": "evaluate RUN TABLE",
    "evaluate a suite": "evaluate RUN --suite OUT/suite.toml --data OUT --out NEW",
}
STORED = ("--orientation", "stored")
SCALED = ("--scaled-jpeg",)


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    images = {
        "lying.jpg": encoded(rgb(300, 200), "JPEG", exif=exif),
        "large.jpg": encoded(rgb(1280, 960), "JPEG", quality=90),
    }
    images |= {f"plain{seed}.png": encoded(rgb(90, 70, seed), "PNG") for seed in range(20)}
    rows = ["image,caption,label"]
    for number, (name, data) in enumerate(images.items()):
        (tmp_path / name).write_bytes(data)
        rows.append(f"{name},a {LABELS[number % 2]} number {number},{LABELS[number % 2]}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "templates.txt").write_text("a {}\nthe {}\n")
    (tmp_path / "suite.toml").write_text(SUITE)
    return images


@pytest.fixture
def rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Digests of all pixels that go through an image tower."""
    package.load(run.folder)  # the first time reference images go through it
    made: set[str] = set()
    towers = Model.encode_batch

    def watched(self: Model, batch: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
        if batch.dtype == np.uint8:
            made.update(digest(image) for image in batch)
        return towers(self, batch, *arguments, **options)

    monkeypatch.setattr(Model, "encode_batch", watched)
    yield made


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def by_pillow(data: bytes, *, upright: bool) -> np.ndarray:
    """What open_clip does with a file, or with the file turned upright: 64×64, by Pillow alone."""
    image = Image.open(io.BytesIO(data))
    image = (ImageOps.exif_transpose(image) if upright else image).convert("RGB")
    short, long = min(image.size), max(image.size)
    size = (64, 64 * long // short) if image.width <= image.height else (64 * long // short, 64)
    left, top = round((size[0] - 64) / 2), round((size[1] - 64) / 2)
    window = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 64, top + 64))
    return np.asarray(window)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_reads_images_alike(
    name: str, run: Run, photos: dict[str, bytes], rows: set[str], tmp_path: Path
) -> None:
    preprocess = Preprocess(size=(64, 64))
    scaled = {digest(read_pixels(data, replace(preprocess, scaled_jpeg=True))) for data in photos.values()}
    upright, stored = (
        {digest(by_pillow(data, upright=upright)) for data in photos.values()} for upright in (True, False)
    )
    assert len(upright & stored) == len(upright & scaled) == len(photos) - 1
    for number, (options, expected) in enumerate((((), upright), (STORED, stored), (SCALED, scaled))):
        files = " ".join(f"OUT/{file}" for file in photos)
        places = {"RUN": run.folder, "FILES": files, "TABLE": "OUT/pairs.csv", "NEW": f"OUT/{number}"}
        line = COMMANDS[name]
        for word, place in (places | {"OUT": tmp_path}).items():
            line = line.replace(word, str(place))
        done(*line.split(), *options)
        assert rows == expected, options
        rows.clear()


def test_the_library_reads_images_alike(
    run: Run, photos: dict[str, bytes], rows: set[str], tmp_path: Path
) -> None:
    model = package.load(run.folder)
    files = [tmp_path / name for name in photos]
    expected = {digest(by_pillow(data, upright=True)) for data in photos.values()}
    classifier = ZeroShotClassifier(model).fit(y=LABELS)
    for encode in (
        lambda: model.encode(files),
        lambda: model.encode(list(photos.values())),
        lambda: model.encode([Image.open(file) for file in files]),
        lambda: model.logits(files, ["a heart"]),
        lambda: classifier.predict(files),
        lambda: encode_images(model, files),
    ):
        rows.clear()
        encode()
        assert rows == expected
    own = [model.preprocess(Image.open(file)) for file in files]
    also = model.preprocess_images([Image.open(file) for file in files])
    for file, one, other in zip(files, own, also, strict=True):
        assert one.equal(other) and one.equal(
            model.preprocess(Image.fromarray(by_pillow(file.read_bytes(), upright=True)))
        )


def test_a_loader_that_does_not_augment_reads_images_alike(
    run: Run, photos: dict[str, bytes], tmp_path: Path
) -> None:
    pack(open_source(tmp_path / "pairs.csv"), tmp_path / "shards")
    model, settings = package.load(run.folder), LoaderSettings(len(photos), workers=0, augment=False)
    loader = Loader(ShardSet.open(tmp_path / "shards"), model.tokenizer, model.preprocess, settings)
    batch = next(loader.batches())
    expected = {digest(by_pillow(data, upright=True)) for data in photos.values()}
    assert {digest(image.permute(1, 2, 0).numpy()) for image in batch.pixels} == expected


def test_a_query_is_read_as_the_images_of_its_index(
    run: Run, photos: dict[str, bytes], rows: set[str], tmp_path: Path
) -> None:
    model = package.load(run.folder)
    for number, (orientation, scaled) in enumerate(
        (("upright", False), ("stored", False), ("upright", True))
    ):
        reading = model.reading(orientation, scaled_jpeg=scaled)
        index = Index.create(tmp_path / f"index{number}", reading, "tiny")
        add(index, model, [tmp_path / "pairs.csv"])
        assert index.manifest.settings == {"orientation": orientation, "scaled_jpeg": scaled}
        for name in ("lying.jpg", "large.jpg"):
            rows.clear()
            (hit,) = Searcher(model, index).search(photos[name], k=1)
            assert Path(hit.path).name == name and hit.score == pytest.approx(1, abs=1e-3)
            preprocess = replace(model.preprocess, orientation=orientation, scaled_jpeg=scaled)
            assert rows == {digest(read_pixels(photos[name], preprocess))}


def test_results_of_images_read_in_another_way_are_not_taken_for_these(
    run: Run, photos: dict[str, bytes], tmp_path: Path
) -> None:
    words = (
        f"evaluate {run.folder} --suite {tmp_path}/suite.toml --data {tmp_path} --out {tmp_path}/out".split()
    )
    done(*words)
    result = json.loads((tmp_path / "out" / "shapes.json").read_text())
    assert result["settings"]["images"] == "upright"
    done(*words, "--resume")
    refused = call(*words, "--resume", *SCALED)
    assert refused.code == 2 and "another model" in refused.err
    result["settings"] = {"preprocessing": "exact", "precision": "float32"}  # as before it was a setting
    (tmp_path / "out" / "shapes.json").write_text(json.dumps(result))
    refused = call(*words, "--resume")
    assert refused.code == 2 and "read in another way" in refused.err


def test_the_digest_of_a_model_tells_how_it_reads_images_only_where_that_is_not_the_usual_way(
    run: Run,
) -> None:
    model = package.load(run.folder)
    stored = model.reading("stored")
    others = [stored, model.reading(scaled_jpeg=True), model.reading("stored", scaled_jpeg=True)]
    assert len({model.digest, *(other.digest for other in others)}) == 4
    assert model.reading("upright", scaled_jpeg=False).digest == model.digest
    assert others[0].reading("upright").digest == model.digest
    assert all(other.clip is model.clip for other in others)
