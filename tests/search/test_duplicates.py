"""Near copies are found with the best of them, and what only looks alike to the model is none."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.source_files import images

from diptych.core.errors import UsageError
from diptych.models.model import Model
from diptych.search.add import add
from diptych.search.duplicates import duplicates
from diptych.search.index import Index


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Broad waves of color, as different from seed to seed as photos are."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write(path: Path, image: Image.Image, quality: int = 95) -> None:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    path.write_bytes(file.getvalue())


def test_copies_of_all_kinds_and_the_best_of_each(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(12):
        write(folder / f"{seed:02}.jpg", photo(seed))
    write(folder / "00 small.jpg", photo(0).resize((80, 60)))
    write(folder / "00 poor.jpg", photo(0), quality=40)
    write(folder / "01 large.jpg", photo(1, (640, 480)))
    shutil.copy(folder / "02.jpg", folder / "02 again.jpg")
    index = Index.create(tmp_path / "i", model, "tiny")
    add(index, model, [folder])
    groups, counts = duplicates(index, min_cosine=0.5)
    names = [
        ([place.key for place in group.best.places], [item.places[0].key for item in group.near])
        for group in groups
    ]
    assert sorted(names) == [
        (["00.jpg"], ["00 poor.jpg", "00 small.jpg"]),
        (["01 large.jpg"], ["01.jpg"]),
        (["02 again.jpg", "02.jpg"], []),
    ]
    assert len(names[0][1]) == 2  # the largest group first
    assert counts.seen == counts.kept
    (folder / "00 poor.jpg").unlink()
    assert sorted(len(group.near) for group in duplicates(index, min_cosine=0.5)[0]) == [0, 1, 1]


def test_no_copies_and_no_images(model: Model, tmp_path: Path) -> None:
    images(tmp_path / "a", "a.jpg", "b.jpg")
    index = Index.create(tmp_path / "i", model, "tiny")
    assert duplicates(index)[0] == []
    add(index, model, [tmp_path / "a"])
    assert duplicates(index, min_cosine=0.999999)[0] == []
    with pytest.raises(UsageError, match="min_cosine"):
        duplicates(index, min_cosine=1.5)
