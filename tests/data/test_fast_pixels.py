"""Fast pixels against exact ones: within a level, upright, and large JPEGs decoded small."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.data.odd_files import ORIENTATION_TAG, encoded, odd_files, rgb, turned

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.data.images import jpeg
from diptych.data.images.resize import cover, exact_window
from diptych.data.images.resize_fast import fast_window
from diptych.data.images.transforms import Preprocess, evaluation_pixels, read_pixels, training_pixels

MODES = ("exact", "fast")
SMALL = Preprocess(size=(32, 32))
WIDE_GRAY = {"sixteen-bit.png", "sixteen-bit.tif"}


def levels(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("name", sorted(set(odd_files()) - WIDE_GRAY))
def test_every_kind_of_file_is_within_a_level_of_its_upright_exact_pixels(name: str) -> None:
    data = odd_files()[name]
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    for preprocess in (SMALL, Preprocess(size=(48, 30)), Preprocess(size=(40, 40), resize="squash")):
        exact = evaluation_pixels(upright, preprocess)
        assert levels(read_pixels(data, preprocess, mode="fast"), exact) <= 1
        assert levels(evaluation_pixels(upright, preprocess, mode="fast"), exact) <= 1


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    data = odd_files()["sixteen-bit.png"]
    eight = (np.asarray(Image.open(io.BytesIO(data))).astype(int) + 128) // 257
    expected = evaluation_pixels(Image.fromarray(eight.astype(np.uint8)), SMALL)
    assert levels(read_pixels(data, SMALL, mode="fast"), expected) <= 1
    assert read_pixels(data, SMALL, mode="exact").mean() > 230  # as open_clip sees it: nearly white


@pytest.mark.parametrize("filter_name", ["bicubic", "bilinear"])
def test_the_resize_itself_is_within_a_level_on_photos(shared_data: Path, filter_name: str) -> None:
    for file in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:24]:
        image = Image.open(file).convert("RGB")
        pixels, covered = np.array(image), cover(image.size[::-1], (224, 224))
        for corner in ((0, 0), (covered[0] - 224, covered[1] - 224)):
            exact = np.asarray(exact_window(image, covered, corner, (224, 224), filter_name))
            assert levels(fast_window(pixels, covered, corner, (224, 224), filter_name), exact) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(411, 305), (305, 411)])
def test_a_large_jpeg_is_decoded_small_and_turned(
    orientation: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = pytest.importorskip("simplejpeg")
    decoded: list[tuple[int, ...]] = []

    class Watched:
        decode_jpeg_header = staticmethod(codec.decode_jpeg_header)

        @staticmethod
        def decode_jpeg(*arguments: Any, **options: Any) -> np.ndarray:
            decoded.append(codec.decode_jpeg(*arguments, **options).shape[:2])
            return codec.decode_jpeg(*arguments, **options)

    monkeypatch.setattr(jpeg, "jpeg_codec", lambda: Watched)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    smooth = rgb(13, 9).resize(size, Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95, exif=exif)
    preprocess = Preprocess(size=(48, 32))
    actual = read_pixels(data, preprocess, mode="fast")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    off = np.abs(actual.astype(int) - evaluation_pixels(upright, preprocess))
    # An image that is turned wrongly, or read a pixel aside, is tens of levels off on average.
    assert off.mean() < 0.6 and off.max() <= 8
    ((height, width),) = decoded
    covered = cover(upright.size[::-1], (48, 32))
    least = (2 * covered[0], 2 * covered[1])
    if upright.size != smooth.size:
        least = least[::-1]
    assert least[0] <= height <= size[1] / 2 + 1 and least[1] <= width <= size[0] / 2 + 1
    decoded.clear()
    read_pixels(data, preprocess, mode="exact")
    assert decoded == [(size[1], size[0])]


def test_a_jpeg_less_than_four_times_the_target_is_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it would be less than twice the target: the DCT's own low-pass would show."""
    data = encoded(rgb(127, 127), "JPEG")
    exact = read_pixels(data, SMALL, mode="exact")
    assert levels(read_pixels(data, SMALL, mode="fast"), exact) <= 1


@pytest.mark.parametrize("size", [(97, 71), (300, 200), (64, 64)])
def test_training_windows_are_within_two_roundings_of_pillows(size: tuple[int, int]) -> None:
    image, preprocess = rgb(*size), Preprocess(size=(32, 32), train_resize=36, horizontal_flip=True)
    for seed in range(10):
        exact, fast = (training_pixels(image, preprocess, np.random.default_rng(seed), mode=m) for m in MODES)
        assert levels(exact, fast) <= 2  # each is within one of resizing first and cropping then
        assert fast.flags.writeable and fast.flags.c_contiguous


def test_without_simplejpeg_fast_is_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "jpeg_codec", lambda: None)
    for data in (encoded(rgb(), "JPEG"), turned(6), encoded(rgb(400, 300), "JPEG")):
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        exact = evaluation_pixels(upright, SMALL)
        assert levels(read_pixels(data, SMALL, mode="fast"), exact) <= 1


def test_a_cut_file_is_refused_in_every_mode_and_an_unknown_mode_too() -> None:
    data = encoded(rgb(), "JPEG")
    for mode in MODES:
        with pytest.raises(BadSampleError) as caught:
            read_pixels(data[: len(data) // 2], SMALL, mode=mode)
        assert caught.value.reason is Reason.TRUNCATED_IMAGE
    with pytest.raises(SettingsError, match="exact or fast"):
        evaluation_pixels(rgb(), SMALL, mode="quick")  # type: ignore[arg-type]


def test_scans_are_counted_unless_one_holds_all_and_metadata_is_found_where_it_stands() -> None:
    plain = jpeg.plain_jpeg(encoded(rgb(), "JPEG"))
    if plain is None:
        pytest.skip("simplejpeg is not installed")
    assert not plain.may_be_turned
    assert jpeg._read_segments(encoded(rgb(), "JPEG")) == (True, False)
    assert jpeg._read_segments(encoded(rgb(), "JPEG", progressive=True)) == (False, False)
    assert jpeg._read_segments(turned(6)) == (True, True)
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    xmp = encoded(rgb(), "JPEG", xmp=packet)
    assert jpeg._read_segments(xmp) == (True, True)
    # Words of metadata inside the compressed data, or behind the end, turn nothing.
    assert jpeg._read_segments(encoded(rgb(), "JPEG") + b"Exif\x00\x00Orientation") == (True, False)
    data = encoded(rgb(), "JPEG", comment=b"\xff\xda" * 40)
    assert jpeg._read_segments(data) == (True, False)
    for cut in range(2, 700):
        jpeg._read_segments(data[:cut])  # whatever is missing, it ends
    assert jpeg._read_segments(b"\xff\xd8" + b"\xff" * 50) == (False, True)


def in_both_modes(clip: Any, preprocess: Preprocess, files: list[bytes]) -> tuple[Any, Any]:
    """Pixels and embeddings of files, of exact and of fast pixels."""
    torch = pytest.importorskip("torch")
    pixels = [np.stack([read_pixels(file, preprocess, mode=mode) for file in files]) for mode in MODES]
    with torch.inference_mode():
        batches = [preprocess.normalize(torch.from_numpy(rows).permute(0, 3, 1, 2)) for rows in pixels]
        return pixels, [clip.encode_image(batch) for batch in batches]


def smallest_cosine(exact: Any, fast: Any) -> float:
    from torch.nn.functional import cosine_similarity

    return cosine_similarity(exact, fast).min().item()


@pytest.mark.deep
def test_embeddings_do_not_see_that_large_jpegs_were_decoded_small(shared_data: Path) -> None:
    """A ViT-B/32 with random weights, which sees all images as alike: centered, it is the harder test."""
    pytest.importorskip("torch")
    from diptych.models.towers.clip import build
    from diptych.models.towers.presets import preset

    photos = sorted((shared_data / "coco" / "images").glob("*.jpg"))
    parts = [Image.open(file).convert("RGB") for file in photos]
    files = []
    for number in range(16):
        sheet = Image.new("RGB", (1921, 1081))
        for tile in range(9):
            sheet.paste(parts[number * 9 + tile], (tile % 3 * 640, tile // 3 * 427))
        files.append(encoded(sheet, "JPEG", quality=90))
    pixels, (exact, fast) = in_both_modes(build(preset("ViT-B-32"), seed=0).eval(), Preprocess(), files)
    off = np.abs(pixels[0].astype(int) - pixels[1])
    mean = exact.mean(dim=0)
    plain, centered = smallest_cosine(exact, fast), smallest_cosine(exact - mean, fast - mean)
    print(f"levels: {off.max()} at most, {off.mean():.3f} on average; cosine {plain:.6f}, {centered:.6f}")
    assert off.mean() < 1
    assert plain >= 0.9995 and centered >= 0.999


@pytest.mark.deep
def test_embeddings_notice_fast_where_the_documentation_says_so(shared_data: Path) -> None:
    """Stripes in a large JPEG, files that are turned; neither upright photos nor stripes in a PNG."""
    pytest.importorskip("torch")
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
    clip = build(config, seed=0).eval()

    def smallest(files: list[bytes]) -> float:
        return smallest_cosine(*in_both_modes(clip, Preprocess(size=(80, 60)), files)[1])

    assert smallest(photos) > 0.9997
    assert smallest([encoded(grating, "PNG")]) > 0.99999
    assert smallest([encoded(grating, "JPEG", quality=90)]) < 0.9995
    assert smallest([lying]) < 0.99
