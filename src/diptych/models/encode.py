"""Turn texts and images of any kind, mixed, into rows, in the order given.

This is the one path from inputs to towers: `Model.encode` and `diptych.embed` both go through it. Images
are decoded and cut to size in a few threads while the model works; texts are de-duplicated and bucketed by
length, so that a thousand prompts are a handful of batches and no padding is computed.

Reads: files that are named by a path. Writes: nothing. Needs no torch but for tensors and the fast mode.
Source: `encode` has the signature of sentence-transformers 6.2.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.checks import Floats
from diptych.core.errors import BadInputsError, BadSampleError, SettingsError, unknown_name
from diptych.core.progress import Progress
from diptych.data.images.transforms import Mode, Pixels, Preprocess, check_mode
from diptych.models.inputs import ImageInput, as_items, image_pixels, is_text, require_image

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16"]

BATCHES_AHEAD = 2
"""Batches that are decoded while one is computed: more only costs memory."""
TEXTS_PER_IMAGE = 16
"""Texts in a batch where one number serves both: a caption is that much less work than an image."""


class Towers(Protocol):
    """What encoding needs of a model; `Model` is one."""

    tokenizer: Any
    preprocess: Preprocess
    bulk_mode: Mode

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
    preprocessing: Mode | None
    on_bad: Literal["raise", "nan"]
    workers: int


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How inputs are encoded.

    Attributes:
        precision: what the towers compute in; rows are float32 either way.
        preprocessing: "fast" or "exact", see `data/images/transforms`; None: the model's `bulk_mode`, fast.
        on_bad: an unreadable image is an error, once all others are encoded ("raise"), or a row of NaN.
        workers: decoding threads.
    """

    precision: Precision = "float32"
    preprocessing: Mode | None = None
    on_bad: Literal["raise", "nan"] = "raise"
    workers: int = 2

    def __post_init__(self) -> None:
        for name, known in (("precision", ("float32", "bfloat16")), ("on_bad", ("raise", "nan"))):
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)
        if self.preprocessing is not None:
            check_mode(self.preprocessing)
        checks.whole(self.workers, "workers", least=0)

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


def encode_items(
    model: Towers,
    items: Sequence[Any],
    *,
    batch_size: int,
    settings: EncodeSettings,
    progress: Progress | None = None,
) -> Floats:
    """Encode texts and images; row i is that of item i.

    Returns:
        (N, E) float32, not normalised.

    Raises:
        UsageError: an item is neither a text nor an image.
        BadInputsError: some images cannot be read; it holds the rows of all others.
    """
    texts: list[int] = []
    images: list[int] = []
    for position, item in enumerate(items):
        (texts if is_text(item, position) else images).append(position)
    rows = np.full((len(items), model.config.embed_dim), np.nan, dtype=np.float32)
    encoded = encode_texts(
        model,
        [items[place] for place in texts],
        batch_size=batch_size * TEXTS_PER_IMAGE,
        settings=settings,
        unit=False,
    )
    if texts:
        rows[texts] = encoded
    bad: dict[int, BadSampleError] = {}
    done = 0
    batches = encode_images(
        model, (items[place] for place in images), batch_size=batch_size, settings=settings, unit=False
    )
    if progress is not None:
        progress.advance(len(texts))
    for batch, errors in batches:
        places = images[done : done + len(batch)]
        rows[places] = batch
        bad.update({places[row]: error for row, error in errors.items()})
        done += len(batch)
        if progress is not None:
            progress.advance(len(batch))
    if bad and settings.on_bad == "raise":
        raise _bad_inputs(bad, rows)
    return rows


def encode_texts(
    model: Towers, texts: Iterable[str], *, batch_size: int, settings: EncodeSettings, unit: bool
) -> Floats:
    """Encode texts, each distinct one once, the short ones with the short ones.

    Returns:
        (N, E) float32, of unit length if `unit`; equal texts have bit-equal rows.

    Raises:
        UsageError: `texts` is a single text, or holds something else; a batch size below 1.
    """
    texts, batch_size = checks.texts(texts, "texts"), checks.whole(batch_size, "batch_size")
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
        rows[of_batch] = model.text_rows(cut, settings.precision, unit=unit)
    place = {text: row for row, text in enumerate(distinct)}
    return rows[[place[text] for text in texts]]


def encode_images(
    model: Towers, images: Iterable[ImageInput], *, batch_size: int, settings: EncodeSettings, unit: bool
) -> Iterator[tuple[Floats, dict[int, BadSampleError]]]:
    """Encode images batch by batch.

    Yields:
        (batch_size, E) float32 (the last one shorter), of unit length if `unit`, with a row of NaN for each
        unreadable image; and the reason by row of the batch.

    Raises:
        UsageError: an item is no image, or a batch size below 1.
    """
    checks.whole(batch_size, "batch_size")
    with ThreadPoolExecutor(max_workers=max(1, settings.workers)) as pool:
        decoded = _decoded(pool, model, images, settings, ahead=batch_size * BATCHES_AHEAD)
        while batch := list(islice(decoded, batch_size)):
            bad = {row: found for row, found in enumerate(batch) if isinstance(found, BadSampleError)}
            readable = [row for row in range(len(batch)) if row not in bad]
            rows = np.full((len(batch), model.config.embed_dim), np.nan, dtype=np.float32)
            if readable:
                pixels = np.stack([found for found in batch if not isinstance(found, BadSampleError)])
                rows[readable] = model.image_rows(pixels, settings.precision, unit=unit)
            yield rows, bad


def _decoded(
    pool: ThreadPoolExecutor,
    model: Towers,
    images: Iterable[ImageInput],
    settings: EncodeSettings,
    *,
    ahead: int,
) -> Iterator[Pixels | BadSampleError]:
    """Yield pixels or the reason there are none, in order, with at most `ahead` images in flight."""
    mode = settings.preprocessing or model.bulk_mode

    def work(image: ImageInput) -> Pixels | BadSampleError:
        try:
            return image_pixels(image, model.preprocess, mode)
        except BadSampleError as error:
            return error

    waiting: deque[Future[Pixels | BadSampleError]] = deque()
    for position, image in enumerate(images):
        require_image(image, position)
        waiting.append(pool.submit(work, image))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def tokens_read(tokens: NDArray[np.int64], text: Any) -> NDArray[np.int64]:
    """Return how many tokens of each row (B, L) a text tower has to see.

    A causal tower is read at the first end token: what follows cannot change it. In a bidirectional one the
    padding takes part.
    """
    if getattr(text, "kind", "clip") != "clip":
        return np.full(len(tokens), tokens.shape[1], dtype=np.int64)
    ends: NDArray[np.int64] = (tokens == text.end_id).argmax(axis=1)
    return ends + 1


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
        if not checks.whole(truncate_dim, "truncate_dim") <= rows.shape[1]:
            raise SettingsError(
                "embeddings cannot be cut to this", found=truncate_dim, expected=f"1 to {rows.shape[1]}"
            )
        rows = rows[:, :truncate_dim]
    if normalize:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return np.ascontiguousarray(rows)


class Encodes:
    """The face of every model that has towers: `encode` and `logits`; see `Towers` for what it builds on.

    Attributes:
        bulk_mode: how images are preprocessed where nobody says; a model that runs without torch sets
            "exact", because importing torch takes longer than the fast mode wins on a few images.
    """

    bulk_mode: Mode = "fast"

    def __repr__(self) -> str:
        """Return what the model is: towers, shared space, activation, device and origin."""
        model: Any = self
        config, source = model.config, model.provenance.get("source", "memory")
        (height, width), text = config.vision.image_size, config.text
        return (
            f"<{type(self).__name__}: {config.vision.kind} image tower of width {config.vision.width}, "
            f"{height}x{width} pixels; {text.kind} text tower of width {text.width}, {text.context_length} "
            f"tokens; {config.embed_dim} dimensions; {config.activation}; on {model.device}; from {source}>"
        )

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
        **options: Unpack[EncodeOptions],
    ) -> "Floats | Tensor":
        """Encode texts and images, alone or in any mixture.

        A `str` is a text, whatever it says, except `data:image/…;base64,…`. Images come as `pathlib.Path`,
        encoded bytes, Pillow images or uint8 arrays (H, W, 3); the path of an image has to be a `Path`.

        Args:
            inputs: one input, or N of them in any iterable; an array (N, H, W, 3) is N images.
            batch_size: images per step; texts go by sixteen times as many.
            normalize_embeddings: scale rows to unit length.
            truncate_dim: keep only this many numbers of each row (before normalising).
            convert_to_numpy: return an array; otherwise a tensor, on the model's device.
            device: move the model there first; it stays there.
            show_progress_bar: tell the progress on standard error.
            **options: `precision`, `preprocessing`, `on_bad`, `workers`: see `EncodeSettings`.

        Returns:
            (N, E) float32 in the order given; (E,) for one input.

        Raises:
            BadInputsError: some images cannot be read. It names their positions, and holds the rows of all
                others in `embeddings`.
            UsageError: an input is neither a text nor an image; nothing was encoded.
        """
        model: Any = self
        settings = EncodeSettings.of(options)
        if device is not None:
            model.to(device)
        items, single = as_items(inputs)
        if show_progress_bar:
            with Progress("encoding", total=len(items)) as progress:
                rows = encode_items(model, items, batch_size=batch_size, settings=settings, progress=progress)
        else:
            rows = encode_items(model, items, batch_size=batch_size, settings=settings)
        rows = cut_rows(rows, truncate_dim=truncate_dim, normalize=normalize_embeddings)
        found = rows[0] if single else rows
        if convert_to_numpy:
            return found
        import torch

        return torch.from_numpy(found).to(model.device)

    def logits(self, images: Any, texts: Any) -> Any:
        """Compare images with texts: scale times cosine, plus the bias of models that have one.

        Args:
            images: what `encode` takes, or normalised pixels (B_image, 3, H, W) float.
            texts: what `encode` takes, or token ids (B_text, L) int64.

        Returns:
            logits_per_image (B_image, B_text) float32, of the kind that `encode_image` returns; its transpose
            compares texts with images. `probabilities` says what they mean.
        """
        model: Any = self
        pixels = getattr(images, "ndim", 0) == 4 and "float" in str(images.dtype)
        tokens = getattr(texts, "ndim", 0) == 2 and "int64" in str(texts.dtype)
        image_embeds = model.embed_image(images) if pixels else self._own_embeds(images)
        text_embeds = model.embed_text(texts) if tokens else self._own_embeds(texts)
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
        model: Any = self
        sigmoid = model.config.logit_bias_init is not None
        if hasattr(logits, "softmax"):
            return logits.sigmoid() if sigmoid else logits.softmax(-1)
        if sigmoid:
            return np.exp(-np.logaddexp(0, -logits))  # never overflows
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shares / shares.sum(axis=-1, keepdims=True)

    def _own_embeds(self, inputs: Any) -> Any:
        """Return (N, E) embeds of the kind that `embed_image` returns."""
        rows: Any = self.encode(inputs, normalize_embeddings=True, preprocessing="exact")
        return rows.reshape(-1, rows.shape[-1])
