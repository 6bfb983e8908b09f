"""Our pixels against open_clip's transform, run beside ours: every photo, and every odd kind of file."""

import io
import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.odd_files import odd_files
from tests.peers import run_peer

from diptych.data.images import resize as resampling
from diptych.data.images.transforms import Preprocess, read_pixels
from diptych.models.formats.open_clip import preprocess_from_open_clip

SIDE = Path(__file__).parent / "peers" / "open_clip_pixels.py"
HALF = (0.5, 0.5, 0.5)
SETTINGS = {
    "b32": Preprocess(),
    "l14-336": Preprocess(size=(336, 336)),
    "siglip": Preprocess(size=(256, 256), resize="squash", mean=HALF, std=HALF),
    "tall": Preprocess(size=(80, 60)),
    "bilinear": Preprocess(size=(96, 96), interpolation="bilinear"),
    # As a configuration has it: what open_clip's transform does with it is not what it says.
    "tall-bilinear": preprocess_from_open_clip({"interpolation": "bilinear"}, (80, 60)),
}
# What we show as a viewer does, and open_clip does not: turned upright, and more than 8 bits scaled.
READ_AS_SHOWN = {f"exif-{number}.jpg" for number in range(2, 9)}
READ_AS_SHOWN |= {"exif-6.webp", "sixteen-bit.png", "sixteen-bit.tif"}


def theirs(folder: Path, files: list[Path]) -> dict[str, np.ndarray]:
    settings = {
        name: {
            "image_size": p.size,
            "resize_mode": p.resize,
            "interpolation": p.interpolation,
            "mean": p.mean,
            "std": p.std,
        }
        for name, p in SETTINGS.items()
    }
    settings["tall-bilinear"]["interpolation"] = "bilinear"
    setup = {"files": [str(file) for file in files], "settings": settings}
    (folder / "setup.json").write_text(json.dumps(setup))
    run_peer(SIDE, folder)
    return {name: np.load(folder / f"{name}.npy") for name in SETTINGS}


@pytest.mark.deep
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_pixels_are_open_clips_and_as_stored_of_every_file(shared_data: Path, tmp_path: Path) -> None:
    resampling.shrinking_kernel()
    files = sorted((shared_data / "coco" / "images").glob("*.jpg"))
    assert len(files) == 160
    for name, data in odd_files().items():
        (tmp_path / name).write_bytes(data)
        files.append(tmp_path / name)
    expected = theirs(tmp_path, files)
    for name, preprocess in SETTINGS.items():
        mean, std = (np.array(v, np.float64)[:, None, None] for v in (preprocess.mean, preprocess.std))
        stored = replace(preprocess, orientation="stored")
        for file, row in zip(files, expected[name], strict=True):
            data = file.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                np.testing.assert_array_equal(stored(image).numpy(), row, err_msg=f"{name} {file}")
            levels = np.rint((row * std + mean) * 255).transpose(1, 2, 0)
            np.testing.assert_array_equal(read_pixels(data, stored), levels, err_msg=f"{name} {file}")
            as_shown = file.name in READ_AS_SHOWN
            assert np.array_equal(read_pixels(data, preprocess), levels) != as_shown, f"{name} {file}"


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name", sorted(odd_files()))
def test_pillow_step_by_step_gives_the_same_as_exact(
    name: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as the deep test, with Pillow alone: resize, crop, and only then RGB."""
    if kernels:
        pytest.importorskip("numba")
        assert resampling.shrinking_kernel() is not None
    else:
        monkeypatch.setattr(resampling, "shrinking_kernel", cache(lambda: None))
    data = odd_files()[name]
    image = Image.open(io.BytesIO(data))
    short, long = min(image.size), max(image.size)
    if 224 * int(224 * long / short) > 25_000_000:
        pytest.skip("Pillow would need gigabytes")
    scaled = int(224 * long / short)
    size = (224, scaled) if image.width <= image.height else (scaled, 224)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    window = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(window.convert("RGB"))
    np.testing.assert_array_equal(read_pixels(data, Preprocess(orientation="stored")), expected)
