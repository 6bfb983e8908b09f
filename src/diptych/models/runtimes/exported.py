"""Run an exported model with onnxruntime or OpenVINO: a `diptych.models.model.Model` with arrays for tensors.

Nothing here imports torch: a process embeds its first image while torch would still be importing. Tensors of
torch are taken too, and are then what comes back.

Reads: a folder that `diptych.export` wrote. Writes: its verification cache; the folder works without.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Floats
from diptych.core.errors import DiptychError, IntegrityError, SettingsError, UsageError, unknown_name
from diptych.core.machine import processor
from diptych.core.manifest import content_digest, is_done
from diptych.data.images.transforms import Preprocess
from diptych.models.encode import Encoder, Output, Part, Precision
from diptych.models.inputs import require_context, tokens_read
from diptych.models.runtimes.engines import RUNTIMES, Plan, Tower, open_tower, plans
from diptych.models.tokenizers import AnyTokenizer, open_tokenizer
from diptych.models.towers.config import ClipConfig, check_sizes
from diptych.models.verification import VerificationCache, check_reference, open_verified

KIND = "export"
FORMAT: Literal[1] = 1
IMAGE, TEXT = "image.onnx", "text.onnx"

ENOUGH_COSINE = 0.9999
COSINE_SLACK = 5e-4  # of what a quantized file states: processors round sums differently
CHOSEN_SLACK = 5e-3  # where the user chose runtime and arithmetic: then only a broken model is refused

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

    def normalize_pixels(self, pixels: Any) -> Any:
        """Return (B, 3, H, W) float32, normalized, for uint8 pixels (B, 3, H, W)."""
        mean, std = (
            np.array(x, np.float32).reshape(3, 1, 1) for x in (self.preprocess.mean, self.preprocess.std)
        )
        floats = np.ascontiguousarray(_array(pixels), dtype=np.float32)
        floats *= 1 / (255 * std)
        floats -= mean / std
        return _like(pixels, floats)

    def encode_batch(
        self, batch: NDArray[Any], precision: Precision = "float32", *, output: Output = "embeds"
    ) -> Floats:
        """Return one row per text or image; see `Encoder.encode_batch`. The plan has the precision."""
        del precision
        if output == "penultimate":
            what = "an exported model has no features before the projection"
            raise UsageError(what, fix="load the checkpoint that it was exported from")
        texts = batch.ndim == 2
        given: Any = batch if texts else self.normalize_pixels(batch.transpose(0, 3, 1, 2))
        rows: Any = (self.encode_text if texts else self.encode_image)(given, normalize=output == "embeds")
        return np.asarray(rows)

    def to(self, device: Any) -> "ExportedModel":
        """Return the model, which lives on the CPU."""
        if str(device) != self.device:
            raise UsageError("exported models run on the CPU here", found=str(device), expected=self.device)
        return self

    def _run(self, part: Part, given: Any, *, unit: bool) -> Any:
        array, text = _array(given), self.config.text
        if part == "text":
            longest = int(tokens_read(array, text).max(initial=1))
            require_context(longest, text.context_length)
            array = array[:, :longest]
        array = np.ascontiguousarray(array, dtype=np.int64 if part == "text" else np.float32)
        features: Floats = np.zeros((0, self.config.embed_dim), np.float32)
        if len(array):
            features = (self.text_tower if part == "text" else self.image_tower)(array)
        if unit:
            lengths = np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
            features = np.asarray(features / lengths, dtype=np.float32)
        return _like(given, features)


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
        backend: "onnx" (onnxruntime), "openvino", or "auto": the first that is installed, in the order of
            `diptych.models.runtimes.engines.TABLE`, whose embeddings of the reference inputs keep a cosine of
            0.9999 with the original's (of a file that was quantized below that: the one that it states).
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
    description, manifest, cache = open_verified(folder, KIND, ExportDescription, _check, force=verify)
    tokenizer, content = open_tokenizer(folder, description.model.text), content_digest(manifest)
    candidates = plans(backend, precision, threads, files=description.precision)
    failures: list[DiptychError] = []
    for plan in candidates:
        model = ExportedModel(description, tokenizer, folder, plan, content)
        try:
            _require_cosine(model, cache, named=len(candidates) == 1, force=verify)
        except DiptychError as error:
            failures.append(error)
            continue
        return model
    raise failures[0]


def _require_cosine(model: ExportedModel, cache: VerificationCache, *, named: bool, force: bool) -> None:
    description, plan, folder = model.description, model.plan, model.folder
    fix = "export the model again, or choose another backend"
    key = f"{processor()}, {plan.backend} {plan.precision} {version(RUNTIMES[plan.backend])}"
    exact = description.precision == plan.precision == "float32"
    verify = partial(check_reference, model, folder, description.captions, fix=fix, exact=exact)
    cosines = cache.cosines(key, verify, force=force)
    names = ("reference_cosine_min", "golden_cosine_min")  # the second in older exports
    stated = min((part[n] for part in description.parity.values() for n in names if n in part), default=1.0)
    least = ENOUGH_COSINE if stated >= ENOUGH_COSINE else stated - COSINE_SLACK
    if named:
        least = stated - CHOSEN_SLACK
    for tower in ("image", "text"):
        cosine = cosines.get(tower, 0.0)
        if not cosine >= least:
            what = f"the {tower} tower of this export no longer gives what it gave when it was written"
            found = f"cosine {cosine:.5f} with {plan.backend} {plan.precision}"
            expected = f"{least:.5f} with the original's"
            raise IntegrityError(what, where=folder, found=found, expected=expected, fix=fix)


def _check(description: ExportDescription) -> str:
    check_sizes(replace(description.model, logit_scale_init=description.logit_scale))
    if description.preprocess.size != description.model.vision.image_size:
        raise SettingsError("preprocessing and image tower want other sizes", where="preprocess.size")
    return description.tokenizer_sha256


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _like(given: Any, result: NDArray[Any]) -> Any:
    return sys.modules["torch"].from_numpy(result) if hasattr(given, "detach") else result
