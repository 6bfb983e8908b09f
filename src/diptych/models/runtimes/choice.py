"""Which runtime an exported model runs in, and the check of its reference outputs.

The rule of "auto": the first line of `TABLE` that suits the processor and the files gives the order; of the
installed runtimes in it the first is taken whose embeddings of the reference inputs keep a cosine of at least
0.9999 with the float32 original's (a file that was quantized below that: the cosine that it states). Nothing
is timed on the user's machine, so equal processors choose equally.

Reads: the reference inputs and outputs. Writes: the cosines of each runtime here, into the folder's
verification cache.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import DataError, DiptychError, IntegrityError, MissingPackageError
from diptych.core.machine import processor, processor_flags, warn_of_emulated_bfloat16
from diptych.data.images.transforms import evaluation_pixels
from diptych.models.files.verification_cache import Cosines, VerificationCache
from diptych.models.runtimes.engines import RUNTIMES, Plan, Precision, installed

M = TypeVar("M")  # an exported model, as `exported` opens it

ENOUGH_COSINE = 0.9999
# How far a quantised file may stay behind the cosine that it states: processors round sums differently.
COSINE_SLACK = 5e-4
# Of a component, for float32 files in float32: as checkpoints allow (`reference_outputs.TOLERANCE`).
LARGEST_DIFFERENCE = 1e-4
# The same where the user chose runtime and arithmetic: then only a broken model is refused.
CHOSEN_SLACK = 5e-3
PIXEL_LEVELS = 1
INPUTS = {"image": "pixels", "text": "tokens"}
# Type and number of dimensions of the reference inputs and outputs in `reference_outputs.safetensors`.
KINDS = {
    "picture": ("uint8", 3),
    "pixels": ("uint8", 4),
    "tokens": ("int64", 2),
    "image_embeds": ("float32", 2),
    "text_embeds": ("float32", 2),
}
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Measurement:
    """A line of `TABLE`: what is fastest on some processors.

    Attributes:
        flags: the processor has one of these; empty: every processor.
        files: precisions of the files that it holds for; empty: all.
        plans: backend and arithmetic, the fastest first.
        measured: images and texts a second, as multiples of open_clip's in float32 (ViT-B/32, batch 32,
            2 cores; texts padded to 77 tokens); `LOG.md` has the entries.
    """

    flags: frozenset[str]
    files: frozenset[str]
    plans: tuple[tuple[str, Precision], ...]
    measured: str


# The first line that suits decides.
TABLE = (
    Measurement(
        frozenset({"avx512_bf16", "amx_bf16"}),
        frozenset(),
        (("openvino", "bfloat16"), ("openvino", "float32"), ("onnx", "float32")),
        "AMD EPYC: OpenVINO bfloat16 3.2 and 15 to 18; of int8 files 4.9 and 25, in float32 4.9 and 20 to "
        "23, in ONNX Runtime 15 for texts. Intel Xeon with AMX: OpenVINO 4.9. float32 is alike in both.",
    ),
    Measurement(
        frozenset({"avx512_vnni", "avx_vnni", "amx_int8"}),
        frozenset({"int8"}),
        (("openvino", "float32"), ("onnx", "float32")),
        "The same processors without their bfloat16: OpenVINO 4.9 and 20 to 23, ONNX Runtime 15 for texts.",
    ),
    Measurement(
        frozenset(),
        frozenset(),
        (("onnx", "float32"), ("openvino", "float32")),
        "AMD EPYC with AVX2 only: int8 files 2.3 in ONNX Runtime, 1.2 in OpenVINO; float32 1.3 in both, and "
        "ONNX Runtime is at its first embedding in 0.9 s, OpenVINO in 1.3 s. Others: not measured.",
    ),
)


def plans(backend: str, precision: Precision | None, threads: int | None, *, files: str) -> list[Plan]:
    """List the plans to try, the fastest first.

    Args:
        backend: one of `RUNTIMES`, or "auto": by `TABLE`.
        precision: of the arithmetic; None: float32 with a named backend, else by `TABLE`.
        threads: of the runtime; None: one a core.
        files: what the files' weights are held in.

    Raises:
        MissingPackageError: "auto", and no runtime is installed.
    """
    if precision == "bfloat16":
        warn_of_emulated_bfloat16()
    if backend != "auto":
        return [Plan(backend, precision or "float32", threads or 0)]
    flags = processor_flags()
    order = next(
        line.plans
        for line in TABLE
        if (not line.flags or line.flags & flags) and (not line.files or files in line.files)
    )
    if precision == "bfloat16":
        order = (("openvino", "bfloat16"),)
    usable = [
        Plan(name, arithmetic, threads or 0)
        for name, arithmetic in order
        if installed(name) and precision in (None, arithmetic)
    ]
    if not usable:
        needed = dict.fromkeys(RUNTIMES[name] for name, _ in order)
        raise MissingPackageError(
            "no runtime is installed that can run this export",
            expected=" or ".join(needed),
            fix=f"pip install 'diptych[{order[-1][0]}]'",
        )
    return usable


def choose(
    candidates: Sequence[Plan],
    opened: Callable[[Plan], M],
    cache: VerificationCache,
    *,
    reference: Path,
    force: bool = False,
) -> M:
    """Open the model by the first of the plans that keeps the cosine (see the module's first lines).

    Raises:
        IntegrityError: with none of them it embeds as it should; tells about the first.
    """
    failures: list[DiptychError] = []
    for plan in candidates:
        model = opened(plan)
        cosines = None if force else cache.get(_key(plan))
        try:
            if cosines is None:
                cosines = check_reference(model, _read(reference), where=reference.parent)
                cache.put(_key(plan), cosines)
            _require_cosine(model, cosines, reference.parent, floor=_floor(model, named=len(candidates) == 1))
        except DiptychError as error:
            failures.append(error)
            continue
        return model
    raise failures[0]


def stated_cosine(parity: Mapping[str, Mapping[str, float]]) -> float:
    """Return the smallest cosine on the reference inputs that an export states."""
    names = ("reference_cosine_min", "golden_cosine_min")  # the second in older exports
    return min((part[name] for part in parity.values() for name in names if name in part), default=1.0)


def _floor(model: Any, *, named: bool) -> float:
    stated = stated_cosine(model.description.parity)
    if named:
        return stated - CHOSEN_SLACK
    return ENOUGH_COSINE if stated >= ENOUGH_COSINE else stated - COSINE_SLACK


def _require_cosine(model: Any, cosines: Cosines, where: Path, *, floor: float) -> None:
    for tower in INPUTS:
        cosine = cosines.get(tower, 0.0)
        if not cosine >= floor:
            told = f"cosine {cosine:.5f} with {_name(model.plan)}"
            raise _different(f"the {tower} tower", where, told, f"{floor:.5f} with the original's")


def require_kinds(stored: Mapping[str, Any], where: str | Path) -> None:
    """Check types and shapes of stored reference inputs and outputs before anything is computed with them.

    Args:
        stored: arrays or tensors by name.
        where: the folder, for the message.

    Raises:
        IntegrityError: one is of another kind than this package writes, or unknown.
    """
    for name, array in stored.items():
        kind, dimensions = KINDS.get("picture" if name.startswith("picture_") else name, ("nothing", 0))
        found = str(array.dtype).removeprefix("torch.")
        if found != kind or len(array.shape) != dimensions or 0 in array.shape:
            raise IntegrityError(
                "the reference outputs are damaged",
                where=f"{where}: {name[:SHOWN_CHARACTERS]}",
                found=f"{found} {list(array.shape)}",
                expected=f"{kind}, {dimensions} dimensions, none of them empty",
                fix="restore the folder from a copy, or write it again",
            )


def check_reference(model: Any, stored: Mapping[str, NDArray[Any]], *, where: Path) -> Cosines:
    """Hold an exported model against the embeddings of the original; return each tower's smallest cosine.

    Raises:
        IntegrityError: preprocessing or tokenizer give something else, or a tower does that should be exact.
    """
    require_kinds(stored, where)
    try:
        images = [stored[name] for name in sorted(stored) if name.startswith("picture_")]
        pixels = np.stack([evaluation_pixels(Image.fromarray(x), model.preprocess) for x in images])
        if not np.abs(pixels.astype(int) - stored["pixels"]).max() <= PIXEL_LEVELS:
            raise _different("the preprocessing", where, "other pixels", f"at most {PIXEL_LEVELS} level")
        if not np.array_equal(model.tokenize(model.description.captions), stored["tokens"]):
            raise _different("the tokenizer", where, "other ids", "the same ids")
        rows = {tower: model.encode_batch(stored[name]) for tower, name in INPUTS.items()}
        expected = {tower: stored[f"{tower}_embeds"] for tower in INPUTS}
        width = model.config.embed_dim
        if any(not rows[t].shape == expected[t].shape == (len(rows[t]), width) for t in INPUTS):
            raise ValueError("embeddings of another shape")
    except (KeyError, ValueError, DataError) as error:
        raise _different("the reference outputs", where, f"incomplete ({error})", "all of them") from error
    exact = model.description.precision == "float32" and model.plan.precision == "float32"
    for tower in INPUTS if exact else ():
        far = float(np.abs(rows[tower] - expected[tower]).max())
        if not far <= LARGEST_DIFFERENCE:
            told = f"a difference of {far:.2g}"
            raise _different(f"the {tower} tower", where, told, f"at most {LARGEST_DIFFERENCE:g}")
    return {tower: float((rows[tower] * expected[tower]).sum(axis=1).min()) for tower in INPUTS}


def _different(part: str, where: Path, found: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"{part} of this export no longer gives what it gave when it was written",
        where=where,
        found=found,
        expected=expected,
        fix="export the model again, or choose another backend",
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(path.read_bytes()))
    except (OSError, SafetensorError, KeyError) as error:
        raise IntegrityError(
            "cannot read the reference outputs", where=path, found=str(error)[:200]
        ) from error


def _key(plan: Plan) -> str:
    return f"{processor()}, {_name(plan)} {version(RUNTIMES[plan.backend])}"


def _name(plan: Plan) -> str:
    return f"{plan.backend} {plan.precision}"
