"""A tiny model, and makers of photos as cameras write them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from diptych.data.images.transforms import Preprocess
from diptych.data.synthetic.dataset import scene_pairs
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, TextConfig, VitConfig

MakeModel = Callable[..., Model]
MakePhoto = Callable[..., bytes]


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    captions = [pair.captions[0] for pair in scene_pairs(60, seed=0)]
    tokenizer = Tokenizer.train(captions, size=600, context_length=24)

    def make(seed: int = 1) -> Model:
        vision = VitConfig((32, 32), 16, 32, 1, 2)
        text = TextConfig(24, tokenizer.vocab_size, 32, 1, 2, tokenizer.start_id, tokenizer.end_id)
        model = build(ClipConfig(16, vision, text), seed=seed)
        return Model(model, tokenizer, Preprocess(size=(32, 32)))

    return make


@pytest.fixture(scope="session")
def model(make_model: MakeModel) -> Model:
    return make_model()


@pytest.fixture(scope="session")
def make_photo() -> MakePhoto:
    def make(
        seed: int, *, taken: str = "", camera: str = "", place: tuple[float, float] | None = None
    ) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 255, (24, 36, 3), np.uint8)
        exif = Image.Exif()
        if camera:
            exif[ExifTags.Base.Model] = camera
        if taken:
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
        if place is not None:
            gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
            for value, tag, sides in zip(place, (2, 4), ("NS", "EW"), strict=True):
                minutes, degrees = np.modf(abs(value))
                gps[tag - 1] = sides[value < 0]
                gps[tag] = (float(degrees), float(minutes * 60), 0.0)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", exif=exif)
        return file.getvalue()

    return make


@pytest.fixture
def photos(tmp_path: Path, make_photo: MakePhoto) -> Path:
    """A folder as people have them: nested, unicode, hidden and `._` files, a broken and an empty one."""
    folder = tmp_path / "Photos"
    for number, name in enumerate(("a.jpg", "b.JPG", "2024/c.jpg", "2024/Zürich été/d 1.jpg", "x/y/e.jpeg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        year = 2020 + number
        path.write_bytes(make_photo(number, taken=f"{year}:05:06 10:20:30", camera=f"Pixel {number}"))
    (folder / ".hidden.jpg").write_bytes(make_photo(50))
    (folder / "._a.jpg").write_bytes(b"\0\5\26\7")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "t.jpg").write_bytes(make_photo(51))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder
