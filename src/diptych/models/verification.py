"""Verification of a model's folder: its files by their digests, its embeddings by reference outputs.

Reference outputs are fixed images and captions, and the embeddings that the model gave for them when it was
saved. The images are drawn by a formula and stored as pixels, so a later version of the formula cannot change
what is compared. Each step from image and caption to embedding is stored: a difference is reported where it
begins.

For ViT-B/32 on one core that takes 1.1 s in torch and 2.5 s in ONNX Runtime and gives the same every time
until something changes. So the results are kept with what they depend on: of files the size, times and inode,
of embeddings the processor, the versions and this package's own code. A change makes the entry void.

Needs no torch. Reads and writes: `verification_cache.json` in the model's folder. It is no part of the model:
without it, or where it cannot be written, everything is verified again. Who can forge it can forge the model.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import DataError, DiptychError, EnvironmentFault, IntegrityError
from diptych.core.files.durable import sha256_file, write_json
from diptych.core.files.reading import read_json
from diptych.core.manifest import Manifest, check_file, created_by, read_manifest
from diptych.core.settings import from_mapping
from diptych.data.images.transforms import Pixels, evaluation_pixels
from diptych.models.encode import Encoder
from diptych.models.tokenizers import vocabulary_file

D = TypeVar("D")
Cosines = dict[str, float]  # of each tower, the smallest with the reference outputs

CONFIG, CACHE_NAME = "config.json", "verification_cache.json"
REFERENCE_OUTPUTS, OLD_REFERENCE_OUTPUTS = "reference_outputs.safetensors", "golden.safetensors"

TOLERANCE = 1e-4  # of an embedding's component: rounding between processors stays below 1e-5
PIXEL_TOLERANCE = 1  # levels of 0..255 that a resize may differ by between versions of Pillow
SHOWN_CHARACTERS = 60
INPUTS = {"image": "pixels", "text": "tokens"}  # of each tower

# Type and number of dimensions of the inputs and outputs in `reference_outputs.safetensors`.
KINDS = {
    "picture": ("uint8", 3), "pixels": ("uint8", 4), "tokens": ("int64", 2),
    "image_embeds": ("float32", 2), "text_embeds": ("float32", 2),
}  # fmt: skip

# Empty, plain, capitals, entities and emoji, digits, a pangram, other scripts, longer than any context.
CAPTIONS = (
    "",
    "a photo of a dog",
    "A RED Circle above TWO blue squares",
    "caf\u00e9 &amp; cr\u00e8me \u2615 \U0001f31e",
    "42 pieces, size 9.5",
    "the quick brown fox jumps over the lazy dog",
    "\u65e5\u672c\u8a9e \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "very long " * 60,
)
_ASPECTS = ((1.0, 1.0), (1.25, 1.0), (1.0, 1.5), (0.75, 0.875))
_ADDED_TOKENS_IN_A_CAPTION = 8


def reference_captions(model: Encoder) -> tuple[str, ...]:
    """Return the captions that a model is checked on: `CAPTIONS`, then all tokens added to its vocabulary."""
    added = model.tokenizer.added
    step = max(1, min(_ADDED_TOKENS_IN_A_CAPTION, (model.tokenizer.context_length - 2) // 2))
    return (*CAPTIONS, *(" a ".join(added[start : start + step]) for start in range(0, len(added), step)))


def reference_images(size: tuple[int, int]) -> list[np.ndarray]:
    """Draw four images, (H', W', 3) uint8, whose shapes exercise resizing and cropping to (height, width).

    Crossing waves of growing frequency, no two channels alike.
    """
    images = []
    for number, (tall, wide) in enumerate(_ASPECTS):
        height, width = round(size[0] * tall), round(size[1] * wide)
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        turns = 2.0 ** (number + 1)
        waves = [np.sin(2 * np.pi * (turns * x * (1 + c) + turns * y * (3 - c) + c / 3)) for c in range(3)]
        images.append(np.round(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))
    return images


def reference_arrays(model: Encoder) -> dict[str, NDArray[Any]]:
    """Return images, pixels, tokens and float32 embeddings of the model as it is now."""
    images = reference_images(model.preprocess.size)
    arrays: dict[str, NDArray[Any]] = {f"picture_{number}": image for number, image in enumerate(images)}
    arrays["pixels"] = _pixels(model, images)
    arrays["tokens"] = model.tokenizer.tokens(reference_captions(model))
    for tower, name in INPUTS.items():
        arrays[f"{tower}_embeds"] = model.encode_batch(arrays[name])
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def check_reference(
    model: Encoder, folder: Path, captions: Sequence[str], *, fix: str, exact: bool = True
) -> Cosines:
    """Hold a model against what it gave when its folder was written; return each tower's smallest cosine.

    Raises:
        IntegrityError: preprocessing or tokenizer give something else, or a tower does that should be exact;
            or the stored arrays cannot be read.
    """
    stored = _read_reference(folder)

    def different(part: str, found: str, expected: str) -> IntegrityError:
        what = f"{part} no longer gives what it gave when this folder was written"
        return IntegrityError(what, where=folder, found=found, expected=expected, fix=fix)

    try:
        images = [stored[name] for name in sorted(stored) if name.startswith("picture_")]
        pixels = _pixels(model, images)
        if not np.abs(pixels.astype(int) - stored["pixels"]).max() <= PIXEL_TOLERANCE:
            raise different("the preprocessing", "other pixels", f"at most {PIXEL_TOLERANCE} level")
        if not np.array_equal(model.tokenizer.tokens(captions), stored["tokens"]):
            raise different("the tokenizer", "other ids", "the same ids")
        rows = {tower: model.encode_batch(stored[name]) for tower, name in INPUTS.items()}
        expected = {tower: stored[f"{tower}_embeds"] for tower in INPUTS}
        width = model.config.embed_dim
        if any(not rows[t].shape == expected[t].shape == (len(rows[t]), width) for t in INPUTS):
            raise ValueError("embeddings of another shape")
    except (KeyError, ValueError, DataError) as error:
        raise different("the reference outputs", f"incomplete ({error})", "all of them") from error
    for tower in INPUTS if exact else ():
        difference = float(np.abs(rows[tower] - expected[tower]).max())
        if not difference <= TOLERANCE:
            actual = f"a difference of {difference:.2g}"
            raise different(f"the {tower} tower", actual, f"at most {TOLERANCE:g}")
    return {tower: float((rows[tower] * expected[tower]).sum(axis=1).min()) for tower in INPUTS}


def _read_reference(folder: Path) -> Mapping[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    old = folder / OLD_REFERENCE_OUTPUTS
    path = old if old.is_file() else folder / REFERENCE_OUTPUTS
    try:
        arrays = dict(load(path.read_bytes()))
    except (OSError, SafetensorError, KeyError) as error:
        raise IntegrityError("cannot read the tensors", where=path, found=str(error)[:200]) from error
    for name, array in arrays.items():
        kind, dimensions = KINDS.get("picture" if name.startswith("picture_") else name, ("nothing", 0))
        if str(array.dtype) != kind or array.ndim != dimensions or 0 in array.shape:
            what, stated = "the reference outputs are damaged", f"{folder}: {name[:SHOWN_CHARACTERS]}"
            found = f"{array.dtype} {list(array.shape)}"
            expected = f"{kind}, {dimensions} dimensions, none of them empty"
            fix = "restore the folder from a copy, or write it again"
            raise IntegrityError(what, where=stated, found=found, expected=expected, fix=fix)
    return arrays


def _pixels(model: Encoder, images: Sequence[Pixels]) -> Pixels:
    return np.stack([evaluation_pixels(Image.fromarray(image), model.preprocess) for image in images])


class VerificationCache:
    """Verified digests and reference outputs of a model's folder with this manifest."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._files: dict[str, list[int]] = {}
        self._cosines: dict[str, Cosines] = {}
        # A cache that cannot be read is an empty cache.
        with suppress(DiptychError, ValueError, TypeError, KeyError, AttributeError):
            stored = read_json(folder / CACHE_NAME)
            self._files = {str(name): list(map(int, stat)) for name, stat in stored["files"].items()}
            for key, cosines in stored["cosines"].items():
                self._cosines[str(key)] = {str(name): float(value) for name, value in cosines.items()}

    def check_files(self, *, force: bool) -> None:
        """Hold every file against its digest, unless it is the very file that was checked before."""
        known = {} if force else self._files
        now = {}
        for entry in self._manifest.outputs:
            before = _stat(self._folder / entry.name)
            if not before or before != known.get(entry.name):
                check_file(self._folder, entry)
            now[entry.name] = before
        if now != self._files:
            self._files, self._cosines = now, {}
            self._write()

    def cosines(self, key: str, verify: Callable[[], Cosines], *, force: bool) -> Cosines:
        """Return what this version of the code verified under this key; what is not known is verified."""
        key = f"{key}, {created_by()} {_code()}"
        if force or key not in self._cosines:
            self._cosines[key] = verify()
            self._write()
        return self._cosines[key]

    def _write(self) -> None:
        with suppress(EnvironmentFault):  # a folder that cannot be written is checked every time
            write_json(self._folder / CACHE_NAME, {"files": self._files, "cosines": self._cosines})


@cache
def _code() -> int:
    """Return when the code that embeds was last changed, in nanoseconds."""
    package = Path(__file__).parent.parent
    paths = [path for folder in ("models", "data") for path in (package / folder).rglob("*.py")]
    return max((path.stat().st_mtime_ns for path in paths), default=0)


def _stat(path: Path) -> list[int]:
    with suppress(OSError):
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return []


def open_verified(
    folder: Path, kind: str, description: type[D], check: Callable[[D], str], *, force: bool
) -> tuple[D, Manifest, VerificationCache]:
    """Verify a folder of version 1 and read what its config.json describes.

    Args:
        folder: a checkpoint or an export.
        kind: of its manifest.
        description: the class of its config.json, with the architecture as `model`.
        check: raises a `DiptychError` where the description is no model's; returns its tokenizer's digest.
        force: hash every file, see `VerificationCache.check_files`.

    Raises:
        IntegrityError: a file is missing or changed, or of another version, or belongs to another model.
    """
    manifest, path = read_manifest(folder, kind), folder / CONFIG
    remedy = f"restore the {kind} from a copy, or write it again"
    if manifest.format != 1:
        what, found = f"the {kind} has another format", f"format {manifest.format}"
        fix = f"read it with the version that wrote it ({manifest.created_by})"
        raise IntegrityError(what, where=folder, found=found, expected="format 1", fix=fix)
    verified = VerificationCache(folder, manifest)
    verified.check_files(force=force)
    try:
        stated: Any = from_mapping(description, read_json(path), where=path)
        expected = check(stated)
    except DiptychError as error:
        what = "cannot read the description"
        raise IntegrityError(what, where=path, found=str(error), fix=remedy) from error
    vocabulary = vocabulary_file(folder, stated.model.text)
    found = sha256_file(vocabulary)
    if found != expected:
        what = "the tokenizer is not the one that these weights learned with"
        raise IntegrityError(what, where=vocabulary, found=f"sha256 {found}", expected=expected, fix=remedy)
    return stated, manifest, verified
