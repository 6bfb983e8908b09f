"""Encoded images of every unusual kind, drawn here: what preprocessing has to get right beside photos."""

import io
from functools import cache

import numpy as np
from PIL import Image

ORIENTATION_TAG = 0x0112
SIZE = (97, 71)


def waves(width: int, height: int, channels: int, seed: int = 0) -> np.ndarray:
    """Smooth waves with noise, so that overshoot, rounding and order of conversion all show."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(y / (5 + c)) * np.cos(x / (3 + c)) * 140 + 128 for c in range(channels)]
    return (np.stack(planes, -1) + rng.normal(0, 25, (height, width, channels))).clip(0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return encoded(rgb(), kind, exif=exif)


def rgb(width: int = SIZE[0], height: int = SIZE[1], seed: int = 0) -> Image.Image:
    return Image.fromarray(waves(width, height, 3, seed))


@cache
def odd_files() -> dict[str, bytes]:
    """Return name -> encoded file."""
    alpha = Image.fromarray(waves(*SIZE, 4), "RGBA")
    gray = rgb().convert("L")
    wide = Image.fromarray(waves(*SIZE, 1)[..., 0].astype(np.uint16) * 257)
    palette = rgb().quantize(32)
    frames = [rgb(seed=seed).quantize(64) for seed in range(3)]
    files = {
        "cmyk.jpg": encoded(Image.fromarray(waves(*SIZE, 4), "CMYK"), "JPEG"),
        "gray.jpg": encoded(gray, "JPEG"),
        "gray.png": encoded(gray, "PNG"),
        "gray-alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "alpha.webp": encoded(alpha, "WEBP", lossless=True),
        "palette.png": encoded(palette, "PNG"),
        "palette-transparent.png": encoded(palette, "PNG", transparency=3),
        "palette-alpha.png": encoded(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "rgb-transparent.png": encoded(rgb(), "PNG", transparency=(1, 2, 3)),
        "palette.gif": encoded(palette, "GIF"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=20),
        "palette.bmp": encoded(palette, "BMP"),
        "one-bit.png": encoded(gray.convert("1"), "PNG"),
        "sixteen-bit.png": encoded(wide, "PNG"),
        "progressive.jpg": encoded(rgb(), "JPEG", progressive=True, quality=90),
        "progressive-gray.jpg": encoded(gray, "JPEG", progressive=True),
        "full-chroma.jpg": encoded(rgb(), "JPEG", subsampling=0, quality=95),
        "lossy.webp": encoded(rgb(), "WEBP"),
        "rgb.tif": encoded(rgb(), "TIFF", compression="tiff_lzw"),
        "cmyk.tif": encoded(Image.fromarray(waves(*SIZE, 4), "CMYK"), "TIFF"),
        "sixteen-bit.tif": encoded(wide, "TIFF"),
        "exif-6.tif": turned(6, "TIFF"),
        "lossy.avif": encoded(rgb(), "AVIF"),
        "rgb.jp2": encoded(rgb(), "JPEG2000"),
        "gray.pgm": encoded(gray, "PPM"),
        "exif-1.png": turned(1, "PNG"),
        "exif-6.webp": turned(6, "WEBP"),
    }
    files |= {f"exif-{orientation}.jpg": turned(orientation) for orientation in range(1, 9)}
    for width, height in ((1, 1), (1, 90), (90, 1), (1, 400), (400, 1), (2, 333), (224, 1), (1, 224), (3, 2)):
        files[f"strip-{width}x{height}.png"] = encoded(rgb(width, height), "PNG")
        files[f"strip-{width}x{height}.jpg"] = encoded(rgb(width, height), "JPEG")
    files["strip-gray-1x300.png"] = encoded(rgb(1, 300).convert("L"), "PNG")
    files["strip-1x900.png"] = encoded(rgb(1, 900), "PNG")  # 45 million pixels between resize and crop
    for width, height in ((260, 1000), (400, 900), (1000, 240)):
        files[f"long-{width}x{height}.png"] = encoded(rgb(width, height), "PNG")
    files["long-gray.png"] = encoded(rgb(240, 800).convert("L"), "PNG")
    files["long-alpha.png"] = encoded(Image.fromarray(waves(240, 800, 4), "RGBA"), "PNG")
    return files
