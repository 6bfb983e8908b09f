"""From texts and images of any kind, mixed, to rows in the order given.

`Encoder.encode` and everything that embeds in bulk (`diptych.embed`, evaluation, indexing) go through
`image_batches` and `encode_texts`, and these through the model's `encode_batch`. Images are decoded in a few
threads while the model works; texts are de-duplicated and batched by length.

Reads: files that are named by a path. Source: `encode` has the signature of sentence-transformers 6.2.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, fields, replace
from itertools import islice
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core import checks
from diptych.core.checks import Floats
from diptych.core.errors import BadInputsError, BadSampleError, Reason, SettingsError, unknown_name
from diptych.core.progress import Progress
from diptych.core.records import Counts, Pair
from diptych.data.captions import plain
from diptych.data.images.transforms import Orientation, Pixels, Preprocess, evaluation_pixels
from diptych.models.inputs import (
    ImageInput,
    as_items,
    as_tensor,
    image_pixels,
    is_text,
    require_image,
    require_pixels,
    require_tokens,
    tokens_read,
)

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16"]
Output = Literal["embeds", "features", "penultimate"]
Part = Literal["image", "text", "penultimate"]  # a tower, or the image tower without its projection

IMAGE_BATCH, TEXT_BATCH = 128, 512  # large enough that the matrices are busy, small enough for a laptop
BATCHES_AHEAD = 2  # decoded while one is computed: more only costs memory
TEXTS_PER_IMAGE = 16  # in a batch where one number serves both: a caption is that much less work


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How inputs are encoded.

    Attributes:
        precision: what the towers compute in; rows are float32 either way.
        on_bad: an unreadable image is an error, once all others are encoded ("raise"), or a row of NaN.
        workers: decoding threads.
    """

    precision: Precision = "float32"
    on_bad: Literal["raise", "nan"] = "raise"
    workers: int = 2

    def __post_init__(self) -> None:
        for name, known in (("precision", ("float32", "bfloat16")), ("on_bad", ("raise", "nan"))):
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)
        checks.whole(self.workers, "workers", least=0)


class BadImage(NamedTuple):
    """Why an image has no row; `reason` is a pair's own fault where it tells one."""

    reason: Reason
    where: str
    error: BadSampleError


class Encoder:
    """Base of the models; each brings `normalize_pixels`, `encode_batch` and how its towers `_run`.

    An exported model takes and returns arrays where a `Model` has tensors.
    """

    config: Any
    tokenizer: Any
    preprocess: Preprocess
    provenance: Any
    arrays = False  # whether `logits` returns arrays; tensors otherwise

    def __repr__(self) -> str:
        model: Any = self
        config, source = model.config, model.provenance.get("source", "memory")
        (height, width), text = config.vision.image_size, config.text
        return (
            f"<{type(self).__name__}: {config.vision.kind} image tower of width {config.vision.width}, "
            f"{height}x{width} pixels; {text.kind} text tower of width {text.width}, {text.context_length} "
            f"tokens; {config.embed_dim} dimensions; {config.activation}; on {model.device}; from {source}>"
        )

    def reading(self, orientation: Orientation | None = None, *, scaled_jpeg: bool | None = None) -> Self:
        """Return this model, weights shared, with image files read in another way.

        Args:
            orientation: "upright", or "stored" as open_clip reads files; None: as before.
            scaled_jpeg: decode large JPEG files at a fraction of their size; None: as before.
        """
        usual, changed = self.preprocess, copy(self)
        scaled = usual.scaled_jpeg if scaled_jpeg is None else scaled_jpeg
        orientation = orientation or usual.orientation
        changed.preprocess = replace(usual, orientation=orientation, scaled_jpeg=scaled)
        return changed

    def tokenize(self, texts: Sequence[str] | str) -> "Tensor":
        """Return (B, context_length) int64 token ids, zeros behind the end token; B is 1 for one text."""
        return self._native(self.tokenizer.tokens([texts] if isinstance(texts, str) else texts))

    def preprocess_images(self, images: Iterable[Image.Image]) -> "Tensor":
        """Return (B, 3, H, W) float32, normalized, on the model's device, for images of any size."""
        arrays = [evaluation_pixels(image, self.preprocess) for image in images]
        stacked = np.stack(arrays) if arrays else np.zeros((0, *self.preprocess.size, 3), np.uint8)
        return self.normalize_pixels(self._native(stacked.transpose(0, 3, 1, 2)))

    def normalize_pixels(self, pixels: Any) -> "Tensor":
        """Return (B, 3, H, W) float32, normalized, on the model's device, for uint8 pixels 0..255."""
        raise NotImplementedError

    def encode_image(self, pixels: Any, *, normalize: bool = False) -> "Tensor":
        """Return image_features (B, E) of normalized images (B, 3, H, W); of unit length if `normalize`."""
        require_pixels(pixels, self.config.vision.image_size)
        return self._run("image", pixels, unit=normalize)

    def encode_text(self, tokens: Any, *, normalize: bool = False) -> "Tensor":
        """Return text_features (B, E) of token ids (B, L) int64; of unit length if `normalize`."""
        require_tokens(tokens, self.config.text.vocab_size)
        return self._run("text", tokens, unit=normalize)

    def _run(self, part: Part, given: Any, *, unit: bool) -> "Tensor":
        raise NotImplementedError

    def _native(self, array: NDArray[Any]) -> "Tensor":
        return cast("Tensor", array) if self.arrays else as_tensor(array)

    def encode_batch(
        self, batch: NDArray[Any], precision: Precision = "float32", *, output: Output = "embeds"
    ) -> Floats:
        """Return one row per text or image: the model call that all bulk encoding shares.

        Args:
            batch: token ids (B, L) int64, or pixels (B, H, W, 3) uint8 as
                `diptych.data.images.transforms.evaluation_pixels` cuts them.
            precision: what the tower computes in; "bfloat16" lets torch choose per operation.
            output: "embeds": (B, E) of unit length; "features": (B, E) as the tower gives them;
                "penultimate": (B, D) before the projection, of images only.

        Returns:
            float32 rows on the CPU.
        """
        raise NotImplementedError

    def encode(
        self,
        inputs: Any,
        batch_size: int = 32,
        *,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        convert_to_numpy: bool = True,
        device: Any = None,
        show_progress_bar: bool | None = None,
        **options: Any,
    ) -> "Floats | Tensor":
        """Encode texts and images, alone or in any mixture.

        A `str` is a text, whatever it says, except `data:image/…;base64,…`. Images come as `pathlib.Path`,
        encoded bytes, Pillow images or uint8 arrays (H, W, 3); the path of an image has to be a `Path`.

        Args:
            inputs: one input, or N of them in any iterable; an array (N, H, W, 3) is N images.
            batch_size: images per step; texts go by sixteen times as many.
            normalize_embeddings: scale rows to unit length.
            truncate_dim: keep only this many numbers of each row (before normalizing).
            convert_to_numpy: return an array; otherwise a tensor, on the model's device.
            device: move the model there first; it stays there.
            show_progress_bar: tell the progress on standard error.
            **options: the fields of `EncodeSettings`: `precision`, `on_bad`, `workers`.

        Returns:
            (N, E) float32 in the order given; (E,) for one input.

        Raises:
            BadInputsError: some images cannot be read. It names their positions, and holds the rows of all
                others in `embeddings`.
            UsageError: an input is neither a text nor an image; nothing was encoded.
        """
        model: Any = self
        known = [field.name for field in fields(EncodeSettings)]
        for name in options.keys() - known:
            raise unknown_name("option of encode", name, known)
        settings = EncodeSettings(**options)
        if device is not None:
            model.to(device)
        items, single = as_items(inputs)
        with Progress("encoding", total=len(items)) if show_progress_bar else nullcontext() as progress:
            rows = _encode_items(self, items, batch_size, settings, progress)
        if truncate_dim is not None:
            if not checks.whole(truncate_dim, "truncate_dim") <= rows.shape[1]:
                limits = f"1 to {rows.shape[1]}"
                raise SettingsError("embeddings cannot be cut to this", found=truncate_dim, expected=limits)
            rows = rows[:, :truncate_dim]
        if normalize_embeddings:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        rows = np.ascontiguousarray(rows[0] if single else rows)
        return rows if convert_to_numpy else as_tensor(rows).to(model.device)

    def logits(self, images: Any, texts: Any) -> Any:
        """Compare images with texts: scale times cosine, plus the bias of models that have one.

        Args:
            images: what `encode` takes, or normalized pixels (B_image, 3, H, W) float.
            texts: what `encode` takes, or token ids (B_text, L) int64.

        Returns:
            logits_per_image (B_image, B_text) float32, of the kind that `encode_image` returns; its transpose
            compares texts with images. `probabilities` says what they mean.
        """
        model: Any = self
        pixels = getattr(images, "ndim", 0) == 4 and "float" in str(images.dtype)
        tokens = getattr(texts, "ndim", 0) == 2 and "int64" in str(texts.dtype)
        image_embeds = model.encode_image(images, normalize=True) if pixels else self._embeds(images)
        text_embeds = model.encode_text(texts, normalize=True) if tokens else self._embeds(texts)
        return model.scale * image_embeds @ text_embeds.T + model.bias

    def probabilities(self, logits: Any) -> Any:
        """Return what logits mean to this model.

        Args:
            logits: (…, C) of C texts, scale times cosine plus the bias, as `logits` returns them.

        Returns:
            The same shape and kind. The softmax over the C texts: which fits better, not whether any fits. Of
            a model that learned with the sigmoid loss, the sigmoid: whether each fits, whatever the others.

        Source: Radford et al. 2021, figure 3; Zhai et al. 2023, equation 1.
        """
        sigmoid = self.config.logit_bias_init is not None
        if hasattr(logits, "softmax"):
            return logits.sigmoid() if sigmoid else logits.softmax(-1)
        if sigmoid:
            return np.exp(-np.logaddexp(0, -logits))  # never overflows
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def _embeds(self, inputs: Any) -> Any:
        rows = self.encode(inputs, normalize_embeddings=True, convert_to_numpy=self.arrays)
        return rows.reshape(-1, rows.shape[-1])


def encode_texts(
    model: Encoder,
    texts: Iterable[str],
    *,
    batch_size: int = TEXT_BATCH,
    precision: Precision = "float32",
    output: Output = "embeds",
) -> Floats:
    """Return (N, E) rows of texts: each distinct one is encoded once, the short ones with the short ones."""
    settings, texts = EncodeSettings(precision), checks.texts(texts, "texts")
    batch_size = checks.whole(batch_size, "batch_size")
    distinct = list(dict.fromkeys(texts))
    rows = np.empty((len(distinct), model.config.embed_dim), dtype=np.float32)
    if not distinct:
        return rows
    tokens = model.tokenizer.tokens(distinct)
    lengths = tokens_read(tokens, model.config.text)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        of_batch = order[start : start + batch_size]
        cut = tokens[of_batch, : lengths[of_batch].max()]
        rows[of_batch] = model.encode_batch(cut, settings.precision, output=output)
    numbers = {text: row for row, text in enumerate(distinct)}
    return rows[[numbers[text] for text in texts]]


def encode_images(model: Encoder, images: Iterable[ImageInput | Pair], **options: Any) -> Floats:
    """Return (N, E) rows of images in the order given; arguments as of `image_batches`."""
    width = row_width(model, options.get("output", "embeds"))
    batches = [rows for rows, _ in image_batches(model, images, **options)]
    return np.concatenate([np.empty((0, width), dtype=np.float32), *batches])


def image_batches(
    model: Encoder,
    images: Iterable[ImageInput | Pair],
    *,
    batch_size: int = IMAGE_BATCH,
    settings: EncodeSettings | None = None,
    output: Output = "embeds",
    counts: Counts | None = None,
) -> Iterator[tuple[Floats, dict[int, BadImage]]]:
    """Encode images batch by batch, as they are read; `on_bad` of the settings is not looked at.

    Yields:
        (batch_size, E) float32 (the last one shorter), with a row of NaN for each unreadable image: whoever
        computes a share later cannot lose it from the denominator by accident; and why, by row of the batch.
        `counts` receives one kept or dropped sample per image.
    """
    checks.whole(batch_size, "batch_size")
    settings = settings or EncodeSettings()
    counts = Counts() if counts is None else counts
    with ThreadPoolExecutor(max_workers=max(1, settings.workers)) as pool:
        decoded = _decoded(pool, model, images, ahead=batch_size * BATCHES_AHEAD)
        while batch := list(islice(decoded, batch_size)):
            bad = {row: image for row, image in enumerate(batch) if isinstance(image, BadImage)}
            readable = [row for row in range(len(batch)) if row not in bad]
            rows = np.full((len(batch), row_width(model, output)), np.nan, dtype=np.float32)
            if readable:
                pixels = np.stack([image for image in batch if not isinstance(image, BadImage)])
                rows[readable] = model.encode_batch(pixels, settings.precision, output=output)
            counts.keep(len(readable))
            for image in bad.values():
                counts.drop(image.reason, plain(image.where))
            yield rows, bad


def row_width(model: Encoder, output: Output) -> int:
    """Return how many numbers a row has: E, or D of the image tower before its projection."""
    vision = model.config.vision if output == "penultimate" else None
    return int(getattr(vision, "output_width", 0) or vision.width) if vision else int(model.config.embed_dim)


def _decoded(
    pool: ThreadPoolExecutor, model: Encoder, images: Iterable[ImageInput | Pair], *, ahead: int
) -> Iterator[Pixels | BadImage]:
    def decode(image: ImageInput | Pair, position: int) -> Pixels | BadImage:
        try:
            return image_pixels(image.image if isinstance(image, Pair) else image, model.preprocess)
        except BadSampleError as error:
            if isinstance(image, Pair):
                where = f"{image.key} ({image.path})" if image.path else image.key
                return BadImage(image.fault or error.reason, where, error)
            where = str(image) if isinstance(image, PathLike) else f"image {position}"
            return BadImage(error.reason, where, error)

    waiting: deque[Future[Pixels | BadImage]] = deque()
    for position, image in enumerate(images):
        if not isinstance(image, Pair):
            require_image(image, position)
        waiting.append(pool.submit(decode, image, position))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _encode_items(
    model: Encoder, items: Sequence[Any], batch_size: int, settings: EncodeSettings, progress: Progress | None
) -> Floats:
    texts: list[int] = []
    images: list[int] = []
    for position, item in enumerate(items):
        (texts if is_text(item, position) else images).append(position)
    rows = np.full((len(items), model.config.embed_dim), np.nan, dtype=np.float32)
    size, precision = batch_size * TEXTS_PER_IMAGE, settings.precision
    given = [items[position] for position in texts]
    rows[texts] = encode_texts(model, given, batch_size=size, precision=precision, output="features")
    if progress is not None:
        progress.advance(len(texts))
    given = [items[position] for position in images]
    bad: dict[int, BadSampleError] = {}
    done = 0
    batches = image_batches(model, given, batch_size=batch_size, settings=settings, output="features")
    for batch, unreadable in batches:
        positions = images[done : done + len(batch)]
        rows[positions] = batch
        bad.update({positions[row]: image.error for row, image in unreadable.items()})
        done += len(batch)
        if progress is not None:
            progress.advance(len(batch))
    if not bad or settings.on_bad == "nan":
        return rows
    first, error = next(iter(bad.items()))
    others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise BadInputsError(
        f"{error.what} (input {first}{others})",
        where=", ".join(f"input {position}" for position in list(bad)[:5]) + (" …" if len(bad) > 5 else ""),
        found=error.found or error.where,
        expected=error.expected,
        fix='the rows of the others are in this error\'s `embeddings`; or pass on_bad="nan"',
        reasons={position: error.reason for position, error in bad.items()},
        embeddings=rows,
    )
