"""The transforms against the same steps spelled out with Pillow, sizes and offsets worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.data.odd_files import encoded, rgb

from diptych.core.errors import SettingsError
from diptych.data.images.resize import FILTERS, goes_down_first
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


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def resized(image: Image.Image, height: int, width: int, interpolation: str = "bicubic") -> np.ndarray:
    return np.asarray(image.resize((width, height), FILTERS[interpolation]))


@pytest.mark.parametrize(("image_size", "size", "covered", "corner"), EVALUATION)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_resizes_to_cover_and_cuts_the_center(image_size, size, covered, corner, interpolation):
    image = rgb(*image_size[::-1])
    whole = resized(image, *covered, interpolation)
    expected = whole[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    pixels = evaluation_pixels(image, Preprocess(size=size, interpolation=interpolation))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_squash_resizes_to_exactly_the_target():
    image, preprocess = rgb(90, 50), Preprocess(size=(80, 60), resize="squash")
    np.testing.assert_array_equal(evaluation_pixels(image, preprocess), resized(image, 80, 60))


@pytest.mark.parametrize("size", [(80, 60), (64, 64), (96, 48)])
@pytest.mark.parametrize("image_size", [(60, 80), (60, 79), (200, 300)])
def test_reading_is_decoding_and_transforming(size, image_size):
    preprocess = Preprocess(size=size, horizontal_flip=True)
    for kind in ("JPEG", "PNG"):
        data = encoded(rgb(*image_size), kind)
        pairs = [(read_pixels(data, preprocess), evaluation_pixels(decode(data), preprocess))]
        for seed in range(5):
            expected = training_pixels(decode(data), preprocess, rng(seed))
            pairs.append((read_pixels(data, preprocess, rng=rng(seed)), expected))
        for actual, expected in pairs:
            np.testing.assert_array_equal(actual, expected)
            assert actual.flags.writeable and actual.flags.c_contiguous and actual.shape == (*size, 3)


def test_training_turns_other_modes_into_rgb_first():
    palette, preprocess = rgb(50, 40).quantize(16), Preprocess(size=(32, 32))
    actual, expected = (
        training_pixels(image, preprocess, rng()) for image in (palette, palette.convert("RGB"))
    )
    np.testing.assert_array_equal(actual, expected)


def test_a_long_strip_is_not_blown_up_before_the_crop():
    """Found while writing: 1×20,000 pixels, within all limits, would be 4 GB between resize and crop."""
    strip = Image.fromarray((np.arange(20_000)[:, None] // 79).astype(np.uint8))
    pixels = evaluation_pixels(strip, Preprocess(size=(224, 224)))
    assert pixels.shape == (224, 224, 3)
    assert abs(int(pixels[112, 112, 0]) - 10_000 // 79) <= 1


@pytest.mark.parametrize("image_size", [(150, 200), (97, 71), (300, 200), (64, 64)])
def test_training_window_is_within_one_level_of_resizing_then_cropping(image_size):
    """From a reduction of 1.9 on torch's resize is used, below it Pillow's of a box."""
    image, preprocess = rgb(*image_size[::-1]), Preprocess(size=(32, 32), train_resize=36)
    covered = [36 if side == min(image_size) else int(36 * side / min(image_size)) for side in image_size]
    whole = resized(image, *covered).astype(int)
    for seed in range(20):
        down, across, _ = rng(seed).random(3)
        top, left = int(down * (covered[0] - 32 + 1)), int(across * (covered[1] - 32 + 1))
        window = training_pixels(image, preprocess, rng(seed)).astype(int)
        assert np.abs(window - whole[top : top + 32, left : left + 32]).max() <= 1


def test_training_windows_reach_every_offset_alike():
    coordinates = np.zeros((70, 66, 3), np.uint8)
    coordinates[..., 0], coordinates[..., 1] = np.arange(70)[:, None], np.arange(66)
    image, chance = Image.fromarray(coordinates), rng()
    preprocess = Preprocess(size=(64, 64), train_resize=66)
    corners = [tuple(training_pixels(image, preprocess, chance)[0, 0, :2].tolist()) for _ in range(2100)]
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert set(counts) == {(top, left) for top in range(7) for left in range(3)}
    assert min(counts.values()) > 50  # 100 expected, sigma 10


@pytest.mark.parametrize(("height", "width", "pad"), [(40, 30, 2), (80, 60, 1)])
def test_padded_training_windows_shift_by_every_offset_and_repeat_the_edge(height, width, pad):
    """The resized image moved by up to `pad`, its edge filled in (oracle: clipped indices)."""
    image, chance = rgb(width, height), rng()
    whole, preprocess = resized(image, 40, 30), Preprocess(size=(40, 30), train_resize=30, train_pad=pad)
    shifts = {}
    for down, across in np.ndindex(2 * pad + 1, 2 * pad + 1):
        rows = np.clip(np.arange(40) + down - pad, 0, 39)
        shifts[whole[rows][:, np.clip(np.arange(30) + across - pad, 0, 29)].tobytes()] = (down, across)
    actual = {training_pixels(image, preprocess, chance).tobytes() for _ in range(400)}
    assert actual == set(shifts) and len(shifts) == (2 * pad + 1) ** 2


def test_training_is_the_same_for_the_same_generator_and_draws_three_numbers():
    image = rgb(120, 90)
    plain = Preprocess(size=(32, 32))
    for preprocess in [plain, replace(plain, horizontal_flip=True), replace(plain, train_pad=3)]:
        one, two, three = rng(7), rng(7), rng(7)
        actual, expected = (training_pixels(image, preprocess, each) for each in (one, two))
        np.testing.assert_array_equal(actual, expected)
        three.random(3)
        assert one.random() == three.random()


def test_flip_mirrors_about_half_of_the_images_and_none_unless_asked():
    image = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    plain, chance = Preprocess(size=(64, 64), train_resize=64), rng(3)
    for flip, least, most in ((True, 150, 250), (False, 0, 0)):
        preprocess = replace(plain, horizontal_flip=flip)
        flipped = sum(training_pixels(image, preprocess, chance)[0, 0, 0] > 30 for _ in range(400))
        assert least <= flipped <= most


@pytest.mark.parametrize("image_size", [(1, 1), (1, 300), (300, 1), (65, 64)])
@pytest.mark.parametrize("size", [(64, 64), (80, 60), (60, 80)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_every_shape_gives_the_target_size(image_size, size, resize):
    image, preprocess = rgb(*image_size), Preprocess(size=size, resize=resize)
    assert evaluation_pixels(image, preprocess).shape == (*size, 3)
    assert {training_pixels(image, preprocess, rng(seed)).shape for seed in range(4)} == {(*size, 3)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": (0, 4)}, "size"),
        ({"mean": (0.5, 0.5)}, "mean is not 3 numbers"),
        ({"train_resize": 100}, "at least 224"),
        ({"train_pad": -1}, "train_pad"),
        ({"train_pad": 224}, "0 to 223"),
        ({"resize": "longest"}, "shortest or squash"),
        ({"interpolation": "nearest"}, "bicubic or bilinear"),
        ({"std": (0, 1, 1)}, "positive"),
        ({"orientation": "sideways"}, "upright or stored"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        Preprocess(**wrong)


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
    for empty in (pixels[:0], lasting[:0]):
        assert preprocess.normalize(empty).shape == (0, 3, 20, 24)


@pytest.mark.parametrize("seed", range(60))
def test_the_kernel_shrinks_as_pillow_does_to_the_bit(seed: int) -> None:
    bicubic = pytest.importorskip("diptych.data.images.resize_kernels").bicubic
    chance = rng(seed)
    new_height, height = np.sort(chance.integers(1, 300, 2)).tolist()
    new_width, width = np.sort(chance.integers(1, 300, 2)).tolist()
    if seed % 4 == 1:
        new_height = height  # one pass only
    if seed % 4 == 2:
        new_width = width
    noise = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = noise if seed % 2 else np.where(noise > 127, 255, 0).astype(np.uint8)  # the largest overshoot
    if seed % 3 == 0:
        pixels = pixels[:, ::-1]  # a view that cannot be written will do
        pixels.flags.writeable = False
    covered = (new_height, new_width)
    whole = resized(Image.fromarray(pixels), *covered)
    top, left = int(chance.integers(new_height)), int(chance.integers(new_width))
    size = int(chance.integers(1, new_height - top + 1)), int(chance.integers(1, new_width - left + 1))
    window = whole[top : top + size[0], left : left + size[1]]
    down_first = goes_down_first((height, width), covered)
    assert np.array_equal(bicubic(pixels, covered, (0, 0), covered, down_first=down_first), whole)
    assert np.array_equal(bicubic(pixels, covered, (top, left), size, down_first=down_first), window)
