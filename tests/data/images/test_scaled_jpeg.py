"""Files as they are read: upright or as stored, and large JPEGs decoded whole or small."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.data.odd_files import ORIENTATION_TAG, encoded, odd_files, rgb, turned

from diptych.core.errors import BadSampleError, Reason
from diptych.data.images import jpeg
from diptych.data.images.resize import Window, cover, exact_window
from diptych.data.images.transforms import (
    Preprocess,
    decode,
    evaluation_pixels,
    fast_window,
    read_pixels,
)

SMALL = Preprocess(size=(32, 32))
STORED = replace(SMALL, orientation="stored")
SCALED = replace(SMALL, scaled_jpeg=True)
WIDE_GRAY = {"sixteen-bit.png", "sixteen-bit.tif"}


def levels(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("name", sorted(set(odd_files()) - WIDE_GRAY))
def test_a_file_gives_the_pixels_of_its_upright_image_however_it_comes(name: str) -> None:
    data = odd_files()[name]
    image = Image.open(io.BytesIO(data))
    upright = ImageOps.exif_transpose(image)
    for preprocess in (SMALL, Preprocess(size=(48, 30)), Preprocess(size=(40, 40), resize="squash")):
        stored = replace(preprocess, orientation="stored")
        expected = evaluation_pixels(upright, stored)  # bit-equal to open_clip's, see test_open_clip_pixels
        for actual in (
            read_pixels(data, preprocess),
            evaluation_pixels(Image.open(io.BytesIO(data)), preprocess),
            evaluation_pixels(upright, preprocess),
        ):
            np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(read_pixels(data, stored), evaluation_pixels(image, stored))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_was_turned_is_not_turned_again(orientation: int) -> None:
    for data in (turned(orientation, "PNG"), turned(orientation)):
        upright = decode(data)
        np.testing.assert_array_equal(
            evaluation_pixels(upright, SMALL), evaluation_pixels(upright.copy(), STORED)
        )


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    data = odd_files()["sixteen-bit.png"]
    eight = (np.asarray(Image.open(io.BytesIO(data))).astype(int) + 128) // 257
    expected = evaluation_pixels(Image.fromarray(eight.astype(np.uint8)), SMALL)
    np.testing.assert_array_equal(read_pixels(data, SMALL), expected)
    assert read_pixels(data, STORED).mean() > 230  # as open_clip sees it: nearly white


@pytest.mark.parametrize("filter_name", ["bicubic", "bilinear"])
def test_the_resize_itself_is_within_a_level_on_photos(shared_data: Path, filter_name: str) -> None:
    for file in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:10]:
        image = Image.open(file).convert("RGB")
        pixels, covered = np.array(image), cover(image.size[::-1], (224, 224))
        for corner in ((0, 0), (covered[0] - 224, covered[1] - 224)):
            window = Window(covered, corner, (224, 224), filter_name)
            assert levels(fast_window(pixels, window), exact_window(image, window)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(411, 305), (305, 411)])
def test_a_large_jpeg_is_decoded_small_and_turned(
    orientation: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = pytest.importorskip("simplejpeg")
    decoded: list[tuple[int, ...]] = []

    def watched(*arguments: Any, **options: Any) -> np.ndarray:
        pixels = codec.decode_jpeg(*arguments, **options)
        decoded.append(pixels.shape[:2])
        return pixels

    fake = SimpleNamespace(decode_jpeg_header=codec.decode_jpeg_header, decode_jpeg=watched)
    monkeypatch.setattr(jpeg, "jpeg_codec", lambda: fake)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    smooth = rgb(13, 9).resize(size, Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95, exif=exif)
    preprocess = Preprocess(size=(48, 32))
    actual = read_pixels(data, replace(preprocess, scaled_jpeg=True))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    off = np.abs(actual.astype(int) - evaluation_pixels(upright, preprocess))
    # An image that is turned wrongly, or read a pixel aside, is tens of levels off on average.
    assert off.mean() < 0.6 and off.max() <= 8
    covered = cover(upright.size[::-1], (48, 32))
    least = [2 * side for side in (covered if upright.size == smooth.size else covered[::-1])]
    ((height, width),) = decoded
    assert least[0] <= height <= size[1] / 2 + 1 and least[1] <= width <= size[0] / 2 + 1
    decoded.clear()
    read_pixels(data, preprocess)
    assert decoded == [(size[1], size[0])]


def test_a_jpeg_less_than_four_times_the_target_is_decoded_whole() -> None:
    """Half of it would be less than twice the target: the DCT's own low-pass would show."""
    data = encoded(rgb(127, 127), "JPEG")
    np.testing.assert_array_equal(read_pixels(data, SMALL), read_pixels(data, SCALED))


def test_without_simplejpeg_every_pixel_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    files = (encoded(rgb(), "JPEG"), turned(6), encoded(rgb(400, 300), "JPEG"))
    expected = [read_pixels(data, SMALL) for data in files]
    monkeypatch.setattr(jpeg, "jpeg_codec", lambda: None)
    for data, pixels in zip(files, expected, strict=True):
        np.testing.assert_array_equal(read_pixels(data, SMALL), pixels)
        np.testing.assert_array_equal(read_pixels(data, SCALED), pixels)  # Pillow decodes it whole


def test_a_cut_file_is_refused_however_it_is_read() -> None:
    data = encoded(rgb(400, 300), "JPEG")
    for preprocess in (SMALL, STORED, SCALED):
        with pytest.raises(BadSampleError) as caught:
            read_pixels(data[: len(data) // 2], preprocess)
        assert caught.value.reason is Reason.TRUNCATED_IMAGE


def test_scans_are_counted_unless_one_holds_all_and_metadata_is_found_where_it_stands() -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    plain, commented = encoded(rgb(), "JPEG"), encoded(rgb(), "JPEG", comment=b"\xff\xda" * 40)
    for data, expected in (
        (plain, (True, False)),
        (encoded(rgb(), "JPEG", progressive=True), (False, False)),
        (turned(6), (True, True)),
        (encoded(rgb(), "JPEG", xmp=packet), (True, True)),
        # Words of metadata inside the compressed data, or behind the end, turn nothing.
        (plain + b"Exif\x00\x00Orientation", (True, False)),
        (commented, (True, False)),
        (b"\xff\xd8" + b"\xff" * 50, (False, True)),
    ):
        assert jpeg._read_segments(data) == expected
    for cut in range(2, 700):
        jpeg._read_segments(commented[:cut])  # whatever is missing, it ends


def embeds(clip: Any, preprocess: Preprocess, files: list[bytes]) -> tuple[np.ndarray, Any]:
    """Return the pixels of files, read in one way, and their embeddings."""
    torch = pytest.importorskip("torch")
    pixels = np.stack([read_pixels(file, preprocess) for file in files])
    with torch.inference_mode():
        return pixels.astype(int), clip.encode_image(
            preprocess.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        )


@pytest.mark.deep
def test_embeddings_do_not_see_that_large_jpegs_were_decoded_small(shared_data: Path) -> None:
    """A ViT-B/32 with random weights, which sees all images as alike: centred, it is the harder test."""
    from torch.nn.functional import cosine_similarity

    from diptych.models.towers.clip import build
    from diptych.models.towers.presets import preset

    photos = sorted((shared_data / "coco" / "images").glob("*.jpg"))
    parts = [Image.open(file).convert("RGB") for file in photos]
    files = []
    for number in range(16):
        sheet = Image.new("RGB", (1921, 1081))
        for place in range(9):
            sheet.paste(parts[number * 9 + place], (place % 3 * 640, place // 3 * 427))
        files.append(encoded(sheet, "JPEG", quality=90))
    clip = build(preset("ViT-B-32"), seed=0).eval()
    (pixels, exact), (others, small) = (embeds(clip, Preprocess(scaled_jpeg=s), files) for s in (False, True))
    assert np.abs(pixels - others).mean() < 1
    assert cosine_similarity(exact, small).min() >= 0.9995
    mean = exact.mean(dim=0)
    assert cosine_similarity(exact - mean, small - mean).min() >= 0.999


@pytest.mark.deep
def test_embeddings_notice_the_settings_where_the_documentation_says_so(shared_data: Path) -> None:
    """Stripes in a large JPEG, and files that are turned; not photos, nor stripes in a PNG."""
    from torch.nn.functional import cosine_similarity

    from diptych.models.towers.clip import build
    from diptych.models.towers.config import VitConfig
    from diptych.models.towers.presets import preset

    rows, columns = np.arange(480)[:, None, None], np.arange(640)[None, :, None]
    stripes = np.where(rows // 2 % 2 == 0, 255, 0) ^ np.where(columns // 3 % 2 == 0, 128, 0)
    grating = Image.fromarray(np.repeat(stripes, 3, axis=2).astype(np.uint8))
    photos = [file.read_bytes() for file in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:40]]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    lying = encoded(Image.open(io.BytesIO(photos[0])), "JPEG", exif=exif)
    config = replace(preset("ViT-B-32"), vision=VitConfig((80, 60), 20, 192, 6, 3))
    clip, preprocess = build(config, seed=0).eval(), Preprocess(size=(80, 60))

    def smallest(files: list[bytes], other: Preprocess) -> float:
        return cosine_similarity(*(embeds(clip, each, files)[1] for each in (preprocess, other))).min().item()

    scaled, stored = replace(preprocess, scaled_jpeg=True), replace(preprocess, orientation="stored")
    assert smallest(photos, scaled) > 0.9997
    assert smallest([encoded(grating, "PNG")], scaled) > 0.99999
    assert smallest([encoded(grating, "JPEG", quality=90)], scaled) < 0.9995
    assert smallest(photos, stored) == pytest.approx(1)
    assert smallest([lying], stored) < 0.99
