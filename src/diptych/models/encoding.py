"""Turn texts and pictures of any kind, mixed, into rows, in the order given.

This is the one path from inputs to towers: `Model.encode` and `diptych.embed` both go through it. Pictures
are decoded and cut to size in a few threads while the model works; texts are de-duplicated and bucketed by
length, so that a thousand prompts are a handful of batches and no padding is computed.

What is a text and what is a picture is decided by the type alone, never by looking for a file:

- `str`: a text, also if it reads like the name of a file; only `data:image/…;base64,…` is a picture
- `pathlib.Path` (anything with `__fspath__`): a picture's file
- `bytes`, `bytearray`, `memoryview`: an encoded picture
- `PIL.Image.Image`: a picture, taken as it is (nothing is turned)
- `numpy.ndarray` of uint8: a picture, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)

Reads: files that are named by a path. Writes: nothing. Needs no torch.
"""

import base64
import binascii
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import BadInputsError, BadSampleError, SettingsError, UsageError, unknown_name
from diptych.core.progress import Progress
from diptych.core.records import Reason
from diptych.data.images import Mode, Pixels, Preprocess, evaluation_pixels, read_pixels
from diptych.data.picture_limits import DEFAULT_LIMITS

Floats = NDArray[np.float32]
Precision = Literal["float32", "bfloat16"]
Picture = Image.Image | bytes | bytearray | memoryview | os.PathLike[str] | NDArray[np.uint8] | str
Input = Picture | str

BATCHES_AHEAD = 2
"""Batches that are decoded while one is computed: more only costs memory."""
TEXTS_PER_PICTURE = 16
"""Texts in a batch where one number serves both: a caption is that much less work than a picture."""
DATA_URL = "data:image/"
CHANNELS = (1, 3, 4)


class Towers(Protocol):
    """What encoding needs of a model; `Model` is one."""

    tokenizer: Any
    preprocess: Preprocess

    @property
    def config(self) -> Any:
        """The architecture."""

    def image_rows(self, pixels: Pixels, precision: Precision = "float32", *, unit: bool = True) -> Floats:
        """Return (B, E) for uint8 pixels (B, H, W, 3)."""

    def text_rows(
        self, tokens: NDArray[np.int64], precision: Precision = "float32", *, unit: bool = True
    ) -> Floats:
        """Return (B, E) for token ids (B, L)."""


class EncodeOptions(TypedDict, total=False):
    """The further words that `Model.encode` takes; see `EncodeSettings`."""

    precision: Precision
    preprocessing: Mode
    on_bad: Literal["raise", "nan"]
    workers: int


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How inputs are encoded.

    Attributes:
        precision: what the towers compute in; rows are float32 either way.
        preprocessing: "fast" or "exact", see `diptych.data.images`.
        on_bad: an unreadable picture is an error, once all others are encoded ("raise"), or a row of NaN.
        workers: decoding threads.
    """

    precision: Precision = "float32"
    preprocessing: Mode = "fast"
    on_bad: Literal["raise", "nan"] = "raise"
    workers: int = 2

    def __post_init__(self) -> None:
        for name, known in (("precision", ("float32", "bfloat16")), ("on_bad", ("raise", "nan"))):
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)

    @classmethod
    def of(cls, options: EncodeOptions) -> "EncodeSettings":
        """Check the names of options.

        Raises:
            UnknownNameError: no option is called that.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise unknown_name("option of encode", name, known)
        return cls(**options)


def as_items(inputs: Any) -> tuple[list[Any], bool]:
    """Return the inputs as a list, and whether they were a single one.

    >>> as_items("a cat"), as_items(["a cat"])
    ((['a cat'], True), (['a cat'], False))
    """
    if isinstance(inputs, np.ndarray):
        single = inputs.dtype.kind not in "UO" and inputs.ndim in (2, 3)
        return ([inputs] if single else list(inputs)), single
    if isinstance(inputs, str | bytes | bytearray | memoryview | os.PathLike | Image.Image):
        return [inputs], True
    if not isinstance(inputs, Iterable) or isinstance(inputs, dict):
        raise _strange(inputs, "the inputs")
    return list(inputs), False


def is_text(item: Any, position: int) -> bool:
    """Tell texts from pictures.

    Raises:
        UsageError: the item is neither.
    """
    if isinstance(item, str):
        return not item.startswith(DATA_URL)
    if isinstance(item, np.ndarray):
        shaped = item.ndim == 2 or (item.ndim == 3 and item.shape[-1] in CHANNELS)
        if item.dtype != np.uint8 or not shaped:
            raise _strange(item, f"input {position}")
        return False
    if not isinstance(item, bytes | bytearray | memoryview | os.PathLike | Image.Image):
        raise _strange(item, f"input {position}")
    return False


def encode_items(
    model: Towers,
    items: Sequence[Any],
    *,
    batch_size: int,
    settings: EncodeSettings,
    progress: Progress | None = None,
) -> Floats:
    """Encode texts and pictures; row i is that of item i.

    Returns:
        (N, E) float32, not normalised.

    Raises:
        UsageError: an item is neither a text nor a picture.
        BadInputsError: some pictures cannot be read; it holds the rows of all others.
    """
    texts: list[int] = []
    pictures: list[int] = []
    for position, item in enumerate(items):
        (texts if is_text(item, position) else pictures).append(position)
    rows = np.full((len(items), model.config.embed_dim), np.nan, dtype=np.float32)
    encoded = encode_texts(
        model,
        [items[place] for place in texts],
        batch_size=batch_size * TEXTS_PER_PICTURE,
        precision=settings.precision,
        unit=False,
    )
    if texts:
        rows[texts] = encoded
    bad: dict[int, BadSampleError] = {}
    done = 0
    batches = encode_pictures(
        model, (items[place] for place in pictures), batch_size=batch_size, settings=settings, unit=False
    )
    if progress is not None:
        progress.advance(len(texts))
    for batch, errors in batches:
        places = pictures[done : done + len(batch)]
        rows[places] = batch
        bad.update({places[row]: error for row, error in errors.items()})
        done += len(batch)
        if progress is not None:
            progress.advance(len(batch))
    if bad and settings.on_bad == "raise":
        raise _bad_inputs(bad, rows)
    return rows


def encode_texts(
    model: Towers, texts: Sequence[str], *, batch_size: int, precision: Precision, unit: bool
) -> Floats:
    """Encode texts, each distinct one once, the short ones with the short ones.

    Returns:
        (N, E) float32, of unit length if `unit`; equal texts have bit-equal rows.
    """
    distinct = list(dict.fromkeys(texts))
    rows = np.empty((len(distinct), model.config.embed_dim), dtype=np.float32)
    if not distinct:
        return rows
    tokens = model.tokenizer.tokens(distinct)
    lengths = _lengths(tokens, model.config.text)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        of_batch = order[start : start + batch_size]
        rows[of_batch] = model.text_rows(tokens[of_batch, : lengths[of_batch].max()], precision, unit=unit)
    place = {text: row for row, text in enumerate(distinct)}
    return rows[[place[text] for text in texts]]


def encode_pictures(
    model: Towers, pictures: Iterable[Picture], *, batch_size: int, settings: EncodeSettings, unit: bool
) -> Iterator[tuple[Floats, dict[int, BadSampleError]]]:
    """Encode pictures batch by batch.

    Yields:
        (batch_size, E) float32 (the last one shorter), of unit length if `unit`, with a row of NaN for each
        unreadable picture; and the reason by row of the batch.
    """
    with ThreadPoolExecutor(max_workers=max(1, settings.workers)) as pool:
        decoded = _decoded(pool, pictures, model.preprocess, settings, ahead=batch_size * BATCHES_AHEAD)
        while batch := list(islice(decoded, batch_size)):
            bad = {row: found for row, found in enumerate(batch) if isinstance(found, BadSampleError)}
            readable = [row for row in range(len(batch)) if row not in bad]
            rows = np.full((len(batch), model.config.embed_dim), np.nan, dtype=np.float32)
            if readable:
                pixels = np.stack([found for found in batch if not isinstance(found, BadSampleError)])
                rows[readable] = model.image_rows(pixels, settings.precision, unit=unit)
            yield rows, bad


def picture_pixels(picture: Picture, preprocess: Preprocess, mode: Mode) -> Pixels:
    """Return (H, W, 3) uint8 of a picture of any kind.

    Raises:
        BadSampleError: with the reason.
    """
    if isinstance(picture, np.ndarray):
        grey = picture.ndim == 3 and picture.shape[-1] == 1
        picture = Image.fromarray(np.ascontiguousarray(picture[..., 0] if grey else picture))
    if isinstance(picture, Image.Image):
        try:
            return evaluation_pixels(picture, preprocess, mode=mode)
        except (OSError, ValueError, SyntaxError) as error:  # opened, but not decoded before
            raise BadSampleError(
                Reason.UNREADABLE_IMAGE, "the picture cannot be read", found=error
            ) from error
    return read_pixels(_bytes_of(picture), preprocess, mode=mode)


def _decoded(
    pool: ThreadPoolExecutor,
    pictures: Iterable[Picture],
    preprocess: Preprocess,
    settings: EncodeSettings,
    *,
    ahead: int,
) -> Iterator[Pixels | BadSampleError]:
    """Yield pixels or the reason there are none, in order, with at most `ahead` pictures in flight."""

    def work(picture: Picture) -> Pixels | BadSampleError:
        try:
            return picture_pixels(picture, preprocess, settings.preprocessing)
        except BadSampleError as error:
            return error

    waiting: deque[Future[Pixels | BadSampleError]] = deque()
    for picture in pictures:
        waiting.append(pool.submit(work, picture))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _lengths(tokens: NDArray[np.int64], text: Any) -> NDArray[np.int64]:
    """Return how many tokens of each row (B, L) a text tower has to see.

    A causal tower is read at the first end token: what follows cannot change it. In a bidirectional one the
    padding takes part.
    """
    if getattr(text, "kind", "clip") != "clip":
        return np.full(len(tokens), tokens.shape[1], dtype=np.int64)
    ends: NDArray[np.int64] = (tokens == text.end_id).argmax(axis=1)
    return ends + 1


def _bytes_of(picture: Any) -> bytes:
    """Return the encoded file behind bytes, a path or a data URL."""
    if isinstance(picture, str):
        _, found, coded = picture.partition(";base64,")
        try:
            return base64.b64decode(coded.encode("ascii"), validate=bool(found))
        except (binascii.Error, UnicodeEncodeError) as error:
            raise BadSampleError(
                Reason.UNREADABLE_IMAGE, "the data URL is not base64", found=f"{picture[:40]!r}…"
            ) from error
    if isinstance(picture, os.PathLike):
        path = Path(picture)
        try:
            with path.open("rb") as file:
                return file.read(DEFAULT_LIMITS.max_bytes + 1)  # one more, so that too long a file is seen
        except OSError as error:
            raise BadSampleError(
                Reason.MISSING_IMAGE, "the picture's file cannot be read", where=path, found=error.strerror
            ) from error
    return bytes(picture)


def _strange(item: Any, where: str) -> UsageError:
    found = type(item).__name__
    if isinstance(item, np.ndarray):
        found = f"array of shape {item.shape}, {item.dtype}"
    return UsageError(
        "this is neither a text nor a picture",
        where=where,
        found=found,
        expected="str, pathlib.Path, bytes, a Pillow picture, or uint8 pixels (H, W, 3)",
        fix="tensors of normalised pixels and of tokens go into encode_image and encode_text",
    )


def _bad_inputs(bad: dict[int, BadSampleError], rows: Floats) -> BadInputsError:
    first, error = next(iter(bad.items()))
    others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    return BadInputsError(
        f"{error.what} (input {first}{others})",
        where=", ".join(f"input {place}" for place in list(bad)[:5]) + (" …" if len(bad) > 5 else ""),
        found=error.found or error.where,
        expected=error.expected,
        fix='the rows of the others are in this error\'s `embeddings`; or pass on_bad="nan"',
        reasons={place: error.reason for place, error in bad.items()},
        embeddings=rows,
    )


def cut_rows(rows: Floats, *, truncate_dim: int | None, normalize: bool) -> Floats:
    """Keep the first `truncate_dim` numbers of each row, then bring rows to unit length.

    Raises:
        SettingsError: rows have no so many numbers.
    """
    if truncate_dim is not None:
        if not 1 <= truncate_dim <= rows.shape[1]:
            raise SettingsError(
                "embeddings cannot be cut to this", found=truncate_dim, expected=f"1 to {rows.shape[1]}"
            )
        rows = rows[:, :truncate_dim]
    if normalize:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return np.ascontiguousarray(rows)
