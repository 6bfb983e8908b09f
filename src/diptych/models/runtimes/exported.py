"""Run an exported model with onnxruntime or OpenVINO: a `diptych.models.model.Model` with arrays for tensors.

Nothing here imports torch: a process embeds its first image while torch would still be importing. Tensors of
torch are taken too, and are then what comes back.

Reads: a folder that `diptych.export` wrote. Writes: its verification cache; the folder works without.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.checks import Floats
from diptych.core.errors import DataError, SettingsError, UsageError, unknown_name
from diptych.core.manifest import content_digest, is_done
from diptych.data.images.transforms import Preprocess, evaluation_pixels
from diptych.models.encode import Encoder, Output, Precision
from diptych.models.files.verification_cache import open_verified
from diptych.models.inputs import require_pixels, require_tokens
from diptych.models.runtimes import choice as backend_choice
from diptych.models.runtimes.engines import RUNTIMES, Plan, Tower, open_tower
from diptych.models.tokenizers import AnyTokenizer, open_tokenizer
from diptych.models.towers.config import ClipConfig, check_sizes

KIND = "export"
FORMAT: Literal[1] = 1
IMAGE, TEXT = "image.onnx", "text.onnx"

ExportPrecision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[ExportPrecision, ...] = ("float32", "float16", "int8")


@dataclass(frozen=True, slots=True)
class ExportDescription:
    """The content of an export's config.json; `precision` is that of the files' weights."""

    format: Literal[1]
    model: ClipConfig
    preprocess: Preprocess
    tokenizer_sha256: str
    precision: ExportPrecision
    logit_scale: float  # the stored logarithm
    model_digest: str  # of the model that was exported
    captions: tuple[str, ...]  # of the reference outputs
    logit_bias: float | None = None
    parity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by tower
    provenance: Mapping[str, Any] = field(default_factory=dict)


class ExportedModel(Encoder):
    """A model whose towers run in another runtime; each tower's file is opened when it is first needed."""

    device = "cpu"
    arrays = True
    tokenizer: AnyTokenizer

    def __init__(
        self,
        description: ExportDescription,
        tokenizer: AnyTokenizer,
        folder: Path,
        plan: Plan,
        content: str = "",
    ) -> None:
        self.description, self.tokenizer, self.plan = description, tokenizer, plan
        self.config, self.preprocess = description.model, description.preprocess
        self.folder, self.provenance, self._content = folder, description.provenance, content
        self.scale, self.bias = float(np.exp(description.logit_scale)), description.logit_bias or 0.0

    @property
    def digest(self) -> str:
        """Equal digests embed equally: in float32 it is the digest of the model that was exported."""
        if self.description.precision == "int8" or self.plan.precision != "float32":
            digest = _digest(self._content, self.plan.precision)
        elif self.description.precision == "float32":
            digest = self.description.model_digest
        else:
            digest = _digest(self._content)
        described = self.description.preprocess
        if self.preprocess.reading == described.reading:
            return digest
        if described.reading != Preprocess().reading:
            digest = _digest(digest)  # it stands for that reading
        return self.preprocess.digest_with(digest)

    @cached_property
    def image_tower(self) -> Tower:
        """The opened image tower: pixels (B, 3, H, W) float32 -> (B, E) float32."""
        return open_tower(self.folder / IMAGE, self.plan)

    @cached_property
    def text_tower(self) -> Tower:
        """The opened text tower: tokens (B, L) int64 -> (B, E) float32."""
        return open_tower(self.folder / TEXT, self.plan)

    def tokenize(self, texts: Sequence[str] | str) -> NDArray[np.int64]:
        """Return (B, context_length) int64 token ids, zeros behind the end token; B is 1 for one text."""
        return self.tokenizer.tokens([texts] if isinstance(texts, str) else texts)

    def normalize_pixels(self, pixels: Any) -> Any:
        """Return (B, 3, H, W) float32, normalized, for uint8 pixels (B, 3, H, W)."""
        mean, std = (
            np.array(x, np.float32).reshape(3, 1, 1) for x in (self.preprocess.mean, self.preprocess.std)
        )
        floats = np.ascontiguousarray(_array(pixels), dtype=np.float32)
        floats *= 1 / (255 * std)
        floats -= mean / std
        return _like(pixels, floats)

    def preprocess_images(self, images: Iterable[Image.Image]) -> Floats:
        """Return (B, 3, H, W) float32, normalized, for images of any size."""
        arrays = [evaluation_pixels(image, self.preprocess) for image in images]
        stacked = np.stack(arrays) if arrays else np.zeros((0, *self.preprocess.size, 3), np.uint8)
        normalized: Floats = self.normalize_pixels(stacked.transpose(0, 3, 1, 2))
        return normalized

    def encode_image(self, pixels: Any, *, normalize: bool = False) -> Any:
        """Return image_features (B, E) of normalized images (B, 3, H, W); of unit length if `normalize`."""
        require_pixels(pixels, self.config.vision.image_size)
        given = np.ascontiguousarray(_array(pixels), dtype=np.float32)
        return _like(pixels, _scaled(self._run(self.image_tower, given), unit=normalize))

    def encode_text(self, tokens: Any, *, normalize: bool = False) -> Any:
        """Return text_features (B, E) of token ids (B, L) int64; of unit length if `normalize`."""
        require_tokens(tokens, self.config.text.vocab_size)
        given = np.ascontiguousarray(_array(tokens), dtype=np.int64)
        return _like(tokens, _scaled(self._run(self.text_tower, self._cut(given)), unit=normalize))

    def encode_batch(
        self, batch: NDArray[Any], precision: Precision = "float32", *, output: Output = "embeds"
    ) -> Floats:
        """Return one row per text or image; see `Encoder.encode_batch`. The plan has the precision."""
        del precision
        if output == "penultimate":
            what = "an exported model has no features before the projection"
            raise UsageError(what, fix="load the checkpoint that it was exported from")
        if batch.ndim != 2:
            pixels = self.normalize_pixels(batch.transpose(0, 3, 1, 2))
            return self.encode_image(pixels, normalize=output == "embeds")  # type: ignore[no-any-return]
        return self.encode_text(batch, normalize=output == "embeds")  # type: ignore[no-any-return]

    def to(self, device: Any) -> "ExportedModel":
        """Return the model, which lives on the CPU."""
        if str(device) != self.device:
            raise UsageError("exported models run on the CPU here", found=str(device), expected=self.device)
        return self

    def _run(self, tower: Tower, given: NDArray[Any]) -> Floats:
        return tower(given) if len(given) else np.zeros((0, self.config.embed_dim), np.float32)

    def _cut(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        text = self.config.text
        if text.kind != "clip":
            return tokens
        is_end = tokens == text.end_id
        length = int(is_end.argmax(axis=1).max(initial=0)) + 1
        if not is_end.any(axis=1).all() or length > text.context_length:
            raise DataError(
                "the text tower cannot read these tokens",
                found=f"{length} tokens" if length > text.context_length else "a text without end token",
                expected=f"the end token (id {text.end_id}) among the first {text.context_length}",
                fix="tokenize with the model's own tokenizer",
            )
        return np.ascontiguousarray(tokens[:, :length])


def is_export(folder: str | Path) -> bool:
    """Say whether a folder holds an exported model."""
    return is_done(Path(folder), KIND)


def load_exported(
    folder: str | Path,
    backend: str = "auto",
    *,
    precision: Literal["float32", "bfloat16"] | None = None,
    threads: int | None = None,
    verify: bool = False,
) -> ExportedModel:
    """Open an exported model.

    Args:
        folder: as `diptych export` wrote it.
        backend: "onnx" (onnxruntime), "openvino", or "auto": the fastest one for this processor that stays at
            the files' cosine, by the table in `diptych.models.runtimes.choice`.
        precision: what the runtime computes in; None leaves it to "auto" and is float32 with a named backend.
            bfloat16 only with OpenVINO; a warning names its cost on processors without it.
        threads: of the runtime; None takes the processor's cores.
        verify: hash every byte and embed the reference inputs even if this machine has done so before.

    Raises:
        UsageError: the folder is no export, or the backend cannot do what is asked.
        UnknownNameError: no such backend.
        MissingPackageError: the backend's package is not installed.
        IntegrityError: a file is missing or changed, or the model no longer embeds as it did.
    """
    if backend not in (*RUNTIMES, "auto"):
        raise unknown_name("backend", backend, (*RUNTIMES, "auto"))
    folder = Path(folder)
    description, manifest, cache = open_verified(
        folder, KIND, ExportDescription, _check, "tokenizer_sha256", force=verify
    )
    tokenizer, content = open_tokenizer(folder, description.model.text), content_digest(manifest)

    def opened(plan: Plan) -> ExportedModel:
        return ExportedModel(description, tokenizer, folder, plan, content)

    plans = backend_choice.plans(backend, precision, threads, files=description.precision)
    return backend_choice.choose(plans, opened, cache, folder, force=verify)


def _check(description: ExportDescription) -> None:
    check_sizes(replace(description.model, logit_scale_init=description.logit_scale))
    if description.preprocess.size != description.model.vision.image_size:
        raise SettingsError("preprocessing and image tower want other sizes", where="preprocess.size")


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _scaled(features: Floats, *, unit: bool) -> Floats:
    if not unit:
        return features
    lengths = np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return np.asarray(features / lengths, dtype=np.float32)


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _like(given: Any, result: NDArray[Any]) -> Any:
    return sys.modules["torch"].from_numpy(result) if hasattr(given, "detach") else result
