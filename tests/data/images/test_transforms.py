"""The transforms against the same steps spelled out with Pillow, sizes and offsets worked out by hand."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import SettingsError
from diptych.data.images.transforms import Preprocess, decode, evaluation_pixels, read_pixels, training_pixels

# image (height, width), target, then by hand: resized (height, width) and the crop's top and left
EVALUATION = [
    ((480, 640), (224, 224), (224, 298), (0, 37)),  # 298.67 is cut, not rounded
    ((640, 480), (224, 224), (298, 224), (37, 0)),
    ((333, 500), (224, 224), (224, 336), (0, 56)),
    ((100, 227), (64, 64), (64, 145), (0, 40)),  # 40.5 goes to the even 40
    ((100, 230), (64, 64), (64, 147), (0, 42)),  # 41.5 goes to the even 42
    ((480, 640), (80, 60), (80, 107), (0, 24)),  # 106.67 is rounded where the target is not square
    ((90, 60), (80, 60), (90, 60), (5, 0)),
    ((80, 60), (80, 60), (80, 60), (0, 0)),
    ((10, 10), (32, 32), (32, 32), (0, 0)),
    ((1, 1), (8, 8), (8, 8), (0, 0)),
]


def make_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth waves with some noise: bicubic overshoot and rounding both show."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(y / 7 + c) * np.cos(x / (5 + c)) for c in range(3)], -1) * 140 + 128
    return Image.fromarray((waves + rng.normal(0, 20, waves.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("image_size", "size", "resized", "corner"), EVALUATION)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_resizes_to_cover_and_cuts_the_center(image_size, size, resized, corner, interpolation):
    image = make_image(*image_size)
    resample = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
    whole = np.asarray(image.resize(resized[::-1], resample))
    expected = whole[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    pixels = evaluation_pixels(image, Preprocess(size=size, interpolation=interpolation))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_squash_resizes_to_exactly_the_target():
    image = make_image(50, 90)
    expected = np.asarray(image.resize((60, 80), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(
        evaluation_pixels(image, Preprocess(size=(80, 60), resize="squash")), expected
    )


@pytest.mark.parametrize("size", [(80, 60), (64, 64), (96, 48)])
@pytest.mark.parametrize("image_size", [(80, 60), (79, 60), (300, 200)])
def test_reading_is_decoding_and_transforming(size, image_size):
    data, preprocess = encoded(make_image(*image_size)), Preprocess(size=size, horizontal_flip=True)
    np.testing.assert_array_equal(read_pixels(data, preprocess), evaluation_pixels(decode(data), preprocess))
    for seed in range(5):
        np.testing.assert_array_equal(
            read_pixels(data, preprocess, rng=np.random.default_rng(seed)),
            training_pixels(decode(data), preprocess, np.random.default_rng(seed)),
        )


def test_training_turns_other_modes_into_rgb_first():
    palette, preprocess = make_image(40, 50).quantize(16), Preprocess(size=(32, 32))
    actual, expected = (
        training_pixels(image, preprocess, np.random.default_rng(0))
        for image in (palette, palette.convert("RGB"))
    )
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("train", [False, True])
def test_pixels_are_writable_contiguous_and_own_their_memory(train):
    rng = np.random.default_rng(0) if train else None
    for image_size in [(80, 60), (90, 70)]:
        for kind in ["JPEG", "PNG"]:
            preprocess = Preprocess(size=(80, 60), train_resize=60, horizontal_flip=True)
            pixels = read_pixels(encoded(make_image(*image_size), kind), preprocess, rng=rng)
            assert pixels.flags.writeable
            assert pixels.flags.c_contiguous
            assert pixels.shape == (80, 60, 3)


def test_a_long_strip_is_not_blown_up_before_the_crop():
    """Found while writing: 1×20,000 pixels, within all limits, would be 4 GB between resize and crop."""
    strip = Image.fromarray(
        np.tile(np.arange(20_000, dtype=np.uint32)[:, None] // 79, (1, 1)).astype(np.uint8)
    )
    pixels = evaluation_pixels(strip, Preprocess(size=(224, 224)))
    assert pixels.shape == (224, 224, 3)
    assert abs(int(pixels[112, 112, 0]) - 10_000 // 79) <= 1


def test_training_window_is_within_one_level_of_resizing_then_cropping():
    image, preprocess = make_image(150, 200), Preprocess(size=(64, 64), train_resize=73)
    resized = np.asarray(image.resize((int(73 * 200 / 150), 73), Image.Resampling.BICUBIC)).astype(int)
    for seed in range(20):
        window = training_pixels(image, preprocess, np.random.default_rng(seed)).astype(int)
        down, across, _ = np.random.default_rng(seed).random(3)
        top, left = int(down * (73 - 64 + 1)), int(across * (97 - 64 + 1))
        assert np.abs(window - resized[top : top + 64, left : left + 64]).max() <= 1


def test_training_windows_reach_every_offset_alike():
    coordinates = np.zeros((70, 66, 3), np.uint8)
    coordinates[..., 0], coordinates[..., 1] = np.arange(70)[:, None], np.arange(66)
    image = Image.fromarray(coordinates)
    rng, preprocess = np.random.default_rng(0), Preprocess(size=(64, 64), train_resize=66)
    corners = [tuple(training_pixels(image, preprocess, rng)[0, 0, :2].tolist()) for _ in range(2100)]
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert set(counts) == {(top, left) for top in range(7) for left in range(3)}
    assert min(counts.values()) > 50  # 100 expected, sigma 10


def test_padded_training_windows_shift_by_every_offset_and_repeat_the_edge():
    """A border of 2 makes 5 x 5 shifts: the image moved, its edge filled in (oracle: clipped indices)."""
    image = make_image(40, 30)
    whole, preprocess = np.asarray(image), Preprocess(size=(40, 30), train_resize=30, train_pad=2)
    rng, actual = np.random.default_rng(0), set()
    for _ in range(400):
        pixels = training_pixels(image, preprocess, rng)
        for down, across in np.ndindex(5, 5):
            rows = np.clip(np.arange(40) + down - 2, 0, 39)
            columns = np.clip(np.arange(30) + across - 2, 0, 29)
            if np.array_equal(pixels, whole[rows][:, columns]):
                actual.add((down, across))
                break
        else:
            pytest.fail("a window that is no shift")
    assert len(actual) == 25


def test_padding_comes_after_resizing():
    image, rng = make_image(80, 60), np.random.default_rng(1)
    preprocess = Preprocess(size=(40, 30), train_resize=30, train_pad=1)
    resized = np.asarray(image.resize((30, 40), Image.Resampling.BICUBIC))
    small = np.pad(resized, ((1, 1), (1, 1), (0, 0)), "edge")
    shifts = [small[top : top + 40, left : left + 30] for top in range(3) for left in range(3)]
    for _ in range(30):
        pixels = training_pixels(image, preprocess, rng)
        assert any(np.array_equal(pixels, shift) for shift in shifts)


def test_training_is_the_same_for_the_same_generator_and_draws_three_numbers():
    image = make_image(90, 120)
    plain = Preprocess(size=(32, 32))
    for preprocess in [plain, replace(plain, horizontal_flip=True), replace(plain, train_pad=3)]:
        one, two = np.random.default_rng(7), np.random.default_rng(7)
        np.testing.assert_array_equal(
            training_pixels(image, preprocess, one), training_pixels(image, preprocess, two)
        )
        two.bit_generator.state = np.random.default_rng(7).bit_generator.state
        two.random(3)
        assert one.random() == two.random()


def test_flip_mirrors_about_half_of_the_images_and_none_unless_asked():
    image = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    rng = np.random.default_rng(3)
    flipped = [
        training_pixels(image, Preprocess(size=(64, 64), train_resize=64, horizontal_flip=True), rng)[0, 0, 0]
        > 30
        for _ in range(400)
    ]
    assert 150 < sum(flipped) < 250
    assert not any(
        training_pixels(image, Preprocess(size=(64, 64), train_resize=64), rng)[0, 0, 0] > 30
        for _ in range(50)
    )


@pytest.mark.parametrize("image_size", [(1, 1), (1, 300), (300, 1), (65, 64)])
@pytest.mark.parametrize("size", [(64, 64), (80, 60), (60, 80)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_every_shape_gives_the_target_size(image_size, size, resize):
    preprocess = Preprocess(size=size, resize=resize)
    assert evaluation_pixels(make_image(*image_size), preprocess).shape == (*size, 3)
    for seed in range(4):
        assert training_pixels(make_image(*image_size), preprocess, np.random.default_rng(seed)).shape == (
            *size,
            3,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (0, 4)},
        {"train_resize": 100},
        {"train_pad": -1},
        {"train_pad": 224},
        {"resize": "longest"},
        {"interpolation": "nearest"},
        {"std": (0, 1, 1)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        Preprocess(**wrong)


def test_real_photos_equal_pillow_step_by_step(shared_data: Path):
    for path in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:12]:
        image = Image.open(path).convert("RGB")
        short, long = sorted(image.size)
        scaled = 224 * long // short
        size = (224, scaled) if image.width <= image.height else (scaled, 224)
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        expected = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
        np.testing.assert_array_equal(read_pixels(path.read_bytes(), Preprocess()), np.asarray(expected))


def test_normalising_is_the_same_to_the_bit_in_every_layout():
    torch = pytest.importorskip("torch")
    preprocess = Preprocess(size=(20, 24))
    pixels = torch.arange(2 * 3 * 20 * 24).remainder(256).to(torch.uint8).view(2, 3, 20, 24)
    mean, std = (torch.tensor(value)[:, None, None] for value in (preprocess.mean, preprocess.std))
    expected = (pixels.float() / 255 - mean) / std
    lasting = pixels.contiguous(memory_format=torch.channels_last)
    for given in (pixels, lasting, pixels[:, :, :, ::1], lasting[:, :, 2:, 3:], pixels[0], lasting[0]):
        like = expected[0] if given.ndim == 3 else expected[..., -given.shape[-2] :, -given.shape[-1] :]
        assert torch.equal(preprocess.normalize(given), like)
        assert given.dtype == torch.uint8
    assert preprocess.normalize(pixels[:0]).shape == (0, 3, 20, 24)
    assert preprocess.normalize(lasting[:0]).shape == (0, 3, 20, 24)
