"""Decoding: every mode and format against Pillow, every limit, every kind of damage."""

import io
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.data.odd_files import ORIENTATION_TAG, encoded

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.data.images import jpeg
from diptych.data.images.decode import decode, to_rgb
from diptych.data.images.formats import WEB_FORMATS
from diptych.data.images.limits import DEFAULT_LIMITS, ImageLimits


def photo(mode: str = "RGB", size: tuple[int, int] = (37, 23)) -> Image.Image:
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8), "RGBA")
    smooth = coarse.resize(size, Image.Resampling.BICUBIC)
    return smooth if mode == "RGBA" else smooth.convert("RGB").convert(mode)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def reason(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Reason:
    with pytest.raises(BadSampleError) as caught:
        decode(data, limits)
    assert str(caught.value)
    return caught.value.reason


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png(width: int, height: int, packed: bytes | None = None, *, color_type: int = 2) -> bytes:
    """A PNG of a stated size, with or without pixels behind its header."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, color_type, 0, 0, 0])
    pixels = b"" if packed is None else png_chunk(b"IDAT", packed)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


FILES = {
    f"{mode}-{kind}": encoded(photo(mode), kind)
    for mode, kind in [
        ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
        ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("P", "GIF"), ("RGB", "WEBP"), ("RGBA", "WEBP"),
        ("RGB", "BMP"), ("P", "BMP"), ("RGB", "TIFF"), ("CMYK", "TIFF"), ("P", "TIFF"), ("LA", "TIFF"),
        ("RGB", "AVIF"), ("RGBA", "AVIF"), ("RGB", "JPEG2000"), ("L", "JPEG2000"), ("RGB", "PPM"),
        ("L", "PPM"), ("1", "PPM"),
    ]
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_mode_becomes_what_pillow_converts_it_to(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(FILES[name])
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), by_pillow(FILES[name]))


def test_palette_with_transparency_is_decoded_without_a_warning():
    data = encoded(photo().quantize(8), "PNG", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(data)
    with pytest.warns(UserWarning, match="Transparency"):
        np.testing.assert_array_equal(np.asarray(image), by_pillow(data))


def test_gray_of_more_than_8_bits_has_a_documented_range():
    # v / 257 rounded: 0, 0.498, 0.502, 1, 127.498, 255
    sixteen = np.array([[0, 128, 129, 257, 32767, 65535]], np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(sixteen), "PNG")))[0, :, 0].tolist() == [
        0,
        0,
        1,
        1,
        127,
        255,
    ]
    for values, kind, expected in (
        ([-5, 0, 65535, 1_000_000], np.int32, [0, 0, 255, 255]),
        ([0.0, 0.5, 1.0, np.nan], np.float32, [0, 128, 255, 0]),
        ([-3.0, 0.6, 254.4, np.inf], np.float32, [0, 1, 254, 255]),
    ):
        wide = Image.fromarray(np.array([values], kind))
        assert np.asarray(to_rgb(wide))[0, :, 0].tolist() == expected


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = encoded(photo(), kind, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(encoded(photo(), kind))))
    for expected in (UPRIGHT[orientation](stored), ImageOps.exif_transpose(Image.open(io.BytesIO(data)))):
        np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(expected))


@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00" + b"MM" * 40]
)
def test_damaged_exif_costs_the_orientation_not_the_image(exif):
    data = encoded(photo(), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).size == (37, 23)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    red, green, blue = np.asarray(decode(data)).reshape(-1, 3).mean(axis=0)
    assert red > 240 and max(green, blue) < 15


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 20}, {"optimize": True, "quality": 95}]
)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 9), (60, 80)])
def test_libjpeg_turbo_alone_is_bit_equal_to_pillow(subsampling, options, size):
    pytest.importorskip("simplejpeg")
    data = encoded(photo(size=size), "JPEG", subsampling=subsampling, **options)
    np.testing.assert_array_equal(jpeg.plain_jpeg(data).decode(), by_pillow(data))


def test_unusual_files_are_left_to_pillow_and_all_without_simplejpeg(monkeypatch):
    assert [jpeg.plain_jpeg(FILES[name]) for name in ("L-JPEG", "CMYK-JPEG", "RGB-PNG")] == [None] * 3
    expected = np.asarray(decode(FILES["RGB-JPEG"]))
    monkeypatch.setattr(jpeg, "jpeg_codec", lambda: None)
    assert jpeg.plain_jpeg(FILES["RGB-JPEG"]) is None
    np.testing.assert_array_equal(np.asarray(decode(FILES["RGB-JPEG"])), expected)


def test_libjpeg_turbo_is_bit_equal_on_real_photos(shared_data: Path):
    pytest.importorskip("simplejpeg")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(shared_data / "fashion" / "test.parquet", columns=["image"])
    files = table["image"].to_pylist()[::20]
    files += [path.read_bytes() for path in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:20]]
    for data in files:
        np.testing.assert_array_equal(np.asarray(decode(data)), by_pillow(data))
    assert sum(jpeg.plain_jpeg(data) is not None for data in files) > 0.9 * len(files)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_truncated(name):
    data = FILES[name]
    marked = name.split("-")[1] in WEB_FORMATS  # these have an end mark or state their length
    expected = Reason.TRUNCATED_IMAGE if marked else Reason.UNREADABLE_IMAGE
    assert {reason(data[: int(len(data) * kept)]) for kept in (0.3, 0.6, 0.8)} == {expected}


ZIP_BOMB = b"k\x00\x00" + zlib.compress(bytes(70_000_000), 9)
PNG = FILES["RGB-PNG"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        *((data, Reason.UNREADABLE_IMAGE) for data in (
            b"", b"\xff", b"not an image", b"RIFF....WAVE", bytes(100), "héllo".encode(),
            PNG[:20] + bytes([PNG[20] ^ 1]) + PNG[21:],  # a wrong checksum
            PNG[:33] + png_chunk(b"zTXt", ZIP_BOMB) + PNG[33:],  # a text that unpacks to 70 MB
        )),
        *((data, Reason.FORMAT_NOT_ALLOWED) for data in (
            encoded(photo(), "ICO"), b"\0\0\0\x18ftypheic" + bytes(40), encoded(photo(), "EPS"),
            encoded(photo(), "PDF"), b"8BPS" + bytes(40), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        )),
        (png(50_000, 50_000), Reason.TOO_MANY_PIXELS),  # Pillow itself refuses to open it
    ],
)  # fmt: skip
def test_what_is_no_image_or_not_read_is_refused(data, expected):
    assert reason(data) is expected


def test_a_format_can_be_allowed_or_forbidden():
    assert decode(encoded(photo(), "ICO"), ImageLimits(formats=("ICO",))).size
    assert reason(FILES["RGB-JPEG"], ImageLimits(formats=("PNG",))) is Reason.FORMAT_NOT_ALLOWED
    for never in ("TGA", "EPS"):  # EPS would start Ghostscript
        with pytest.raises(SettingsError, match=never):
            ImageLimits(formats=("PNG", never))


@pytest.mark.parametrize("name", ["RGB-JPEG", "L-JPEG", "RGB-PNG"])
def test_each_limit_has_its_reason(name):
    data = FILES[name]
    assert reason(data, ImageLimits(max_bytes=len(data) - 1)) is Reason.TOO_MANY_BYTES
    assert reason(data, ImageLimits(max_pixels=37 * 23 - 1)) is Reason.TOO_MANY_PIXELS
    assert reason(data, ImageLimits(max_side=36)) is Reason.TOO_MANY_PIXELS
    exact = ImageLimits(max_bytes=len(data), max_pixels=37 * 23, max_side=37)
    assert decode(data, exact).size == (37, 23)
    with pytest.raises(SettingsError):
        ImageLimits(max_pixels=0)


def test_a_photo_of_48_megapixels_is_refused_by_a_setting_that_is_named(monkeypatch):
    photo_of_phone = png(8064, 6048)
    with pytest.raises(BadSampleError, match="DIPTYCH_MAX_PIXELS=N"):
        decode(photo_of_phone)
    monkeypatch.setenv("DIPTYCH_MAX_PIXELS", "50000000")
    assert reason(photo_of_phone, ImageLimits()) is Reason.UNREADABLE_IMAGE  # it has no pixels at all
    monkeypatch.setenv("DIPTYCH_MAX_PIXELS", "50 million")
    with pytest.raises(SettingsError, match="DIPTYCH_MAX_PIXELS"):
        ImageLimits()


def test_a_bomb_of_144_million_pixels_costs_no_memory():
    script = """
import resource, sys
from diptych.core.errors import BadSampleError
from diptych.data.images.decode import decode
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data)
except BadSampleError as error:
    print(error.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(12_001)) for _ in range(12_000)) + packer.flush()
    data = png(12_000, 12_000, packed, color_type=0)
    assert len(data) < 1_000_000
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    stated, kilobytes = done.stdout.split()
    assert stated == b"too_many_pixels"
    assert int(kilobytes) < 20_000  # only the header was read


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_progressive_jpeg_with_endless_scans_is_refused(mode):
    data = encoded(photo(mode, (1000, 1000)), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    assert decode(data).size == (1000, 1000)
    endless = data[:-2] + scan[: scan.index(b"\xff\xda", 2)] * 600 + b"\xff\xd9"
    assert reason(endless) is Reason.TOO_MANY_PIXELS


def test_mutated_files_give_pixels_or_a_reason():
    """Bits flipped, bytes cut, swapped and repeated: nothing but BadSampleError may come out."""
    rng = np.random.default_rng(11)
    names = list(FILES)
    seen: dict[str, int] = {}
    for turn in range(3000):
        data = bytearray(FILES[names[turn % len(names)]])
        for _ in range(int(rng.integers(1, 8))):
            place = int(rng.integers(0, len(data)))
            match int(rng.integers(0, 4)):
                case 0:
                    data[place] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    del data[place : place + int(rng.integers(1, 20))]
                case 2:
                    data[place:place] = data[: int(rng.integers(1, 20))]
                case _:
                    data[place] = 0xFF
            if not data:
                break
        try:
            outcome = decode(bytes(data), ImageLimits(max_pixels=10_000_000)).mode
        except BadSampleError as error:
            outcome = error.reason
        seen[outcome] = seen.get(outcome, 0) + 1
    assert seen["RGB"] > 100
    reasons = {Reason.UNREADABLE_IMAGE, Reason.TRUNCATED_IMAGE, Reason.TOO_MANY_PIXELS}
    assert reasons <= set(seen) <= {"RGB", *Reason}
