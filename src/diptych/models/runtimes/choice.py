"""Which runtime suits an exported model here: checked on first use, measured where there is a choice.

The rule of "auto": of the installed runtimes, each in every arithmetic that this processor has, the fastest
whose embeddings of the golden inputs keep a cosine of at least 0.9999 with the float32 original's; a file
that was quantised below that keeps the cosine that it states. Ties and failures fall to the earlier of
`plans`.

Reads: the golden embeddings. Writes: what each runtime did here, among the folder's notes
(`diptych.models.files.verification_cache`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import DataError, DiptychError, IntegrityError, MissingPackageError
from diptych.core.machine import core_count, multiplies_bfloat16, processor
from diptych.data.images.transforms import evaluation_pixels
from diptych.models.files.verification_cache import Measured, Notes
from diptych.models.runtimes.engines import RUNTIMES, Plan, Precision, installed

M = TypeVar("M")
"""An exported model, as `exported` opens it."""

ENOUGH_COSINE = 0.9999
COSINE_SLACK = 5e-4
"""How far a quantised file may stay behind the cosine that it states: processors round sums differently."""
LARGEST_DIFFERENCE = 1e-4
"""Of a component, for float32 files in float32: as checkpoints allow (`reference_outputs.TOLERANCE`)."""
CHOSEN_SLACK = 5e-3
"""The same where the user chose runtime and arithmetic: then only a broken model is refused."""
PIXEL_LEVELS = 1
TOWERS = ("image", "text")
TIMED_BATCH, TIMED_RUNS = 8, 3
KINDS = {
    "picture": ("uint8", 3),
    "pixels": ("uint8", 4),
    "tokens": ("int64", 2),
    "image_embeds": ("float32", 2),
    "text_embeds": ("float32", 2),
}
"""Type and number of dimensions of the reference inputs and outputs in `golden.safetensors`."""
SHOWN_CHARACTERS = 60


def plans(backend: str, precision: Precision | None, threads: int | None) -> list[Plan]:
    """List the plans to choose from, the one to fall back to first.

    Raises:
        MissingPackageError: "auto", and no runtime is installed.
    """
    threads = threads or 0
    if backend != "auto":
        return [Plan(backend, precision or "float32", threads)]
    found = []
    for name in RUNTIMES:
        if not installed(name):
            continue
        if precision in (None, "float32"):
            found.append(Plan(name, "float32", threads))
        if name == "openvino" and precision in (None, "bfloat16") and multiplies_bfloat16():
            found.append(Plan(name, "bfloat16", threads))
    if not found:
        raise MissingPackageError(
            "no runtime is installed that can run this export",
            expected=" or ".join(RUNTIMES.values()),
            fix="pip install 'diptych[onnx]'",
        )
    return found


def choose(
    found: Sequence[Plan],
    opened: Callable[[Plan], M],
    notes: Notes,
    *,
    golden: Path,
    force: bool = False,
) -> M:
    """Open the model by the best of the plans (see the module's first lines).

    Raises:
        IntegrityError: with none of them it embeds as it should; tells about the first.
    """
    failures: list[DiptychError] = []
    best: tuple[float, M] | None = None
    for plan in found:
        model = opened(plan)
        measured, timed = None if force else notes.recall(_key(plan)), len(found) > 1
        try:
            if measured is None or (timed and "seconds" not in measured):
                measured = _try(model, golden, timed=timed)
                notes.remember(_key(plan), measured)
            _require_cosine(model, measured, golden.parent, floor=_floor(model, chosen=len(found) == 1))
        except DiptychError as error:
            failures.append(error)
            continue
        seconds = measured.get("seconds", 0.0)
        if best is None or seconds < best[0]:
            best = seconds, model
    if best is None:
        raise failures[0]
    return best[1]


def stated_cosine(parity: Mapping[str, Mapping[str, float]]) -> float:
    """Return the smallest cosine on the golden inputs that an export states."""
    return min((part.get("golden_cosine_min", 1.0) for part in parity.values()), default=1.0)


def _floor(model: Any, *, chosen: bool) -> float:
    """Return the cosine that is required: less where the user named the runtime and its arithmetic."""
    stated = stated_cosine(model.description.parity)
    if chosen:
        return stated - CHOSEN_SLACK
    return ENOUGH_COSINE if stated >= ENOUGH_COSINE else stated - COSINE_SLACK


def _require_cosine(model: Any, measured: Measured, where: Path, *, floor: float) -> None:
    for tower in TOWERS:
        cosine = measured.get(tower, 0.0)
        if not cosine >= floor:
            told = f"cosine {cosine:.5f} with {_name(model.plan)}"
            raise _different(f"the {tower} tower", where, told, f"{floor:.5f} with the original's")


def _try(model: Any, golden: Path, *, timed: bool) -> Measured:
    """Embed the golden inputs, compare, and time it if there is something to choose."""
    tensors = _read(golden)
    measured = check_golden(model, tensors, where=golden.parent)
    if not timed:
        return measured
    batch = np.resize(tensors["pixels"], (TIMED_BATCH, *tensors["pixels"].shape[1:]))
    seconds = []
    for _ in range(TIMED_RUNS):
        begin = time.perf_counter()
        model.image_rows(batch)
        model.text_rows(tensors["tokens"])
        seconds.append(time.perf_counter() - begin)
    return {**measured, "seconds": sorted(seconds)[TIMED_RUNS // 2]}


def require_kinds(golden: Mapping[str, Any], where: str | Path) -> None:
    """Check types and shapes of stored reference inputs and outputs before anything is computed with them.

    Args:
        golden: arrays or tensors by name.
        where: the folder, for the message.

    Raises:
        IntegrityError: one is of another kind than this package writes, or unknown.
    """
    for name, array in golden.items():
        kind, dimensions = KINDS.get("picture" if name.startswith("picture_") else name, ("nothing", 0))
        found = str(array.dtype).removeprefix("torch.")
        if found != kind or len(array.shape) != dimensions or 0 in array.shape:
            raise IntegrityError(
                "the golden embeddings are damaged",
                where=f"{where}: {name[:SHOWN_CHARACTERS]}",
                found=f"{found} {list(array.shape)}",
                expected=f"{kind}, {dimensions} dimensions, none of them empty",
                fix="restore the folder from a copy, or write it again",
            )


def check_golden(model: Any, golden: Mapping[str, NDArray[Any]], *, where: Path) -> Measured:
    """Hold an exported model against the embeddings of the original; return each tower's smallest cosine.

    Raises:
        IntegrityError: preprocessing or tokenizer give something else, or a tower does that should be exact.
    """
    require_kinds(golden, where)
    try:
        pictures = [golden[name] for name in sorted(golden) if name.startswith("picture_")]
        pixels = np.stack([evaluation_pixels(Image.fromarray(x), model.preprocess) for x in pictures])
        if not np.abs(pixels.astype(int) - golden["pixels"]).max() <= PIXEL_LEVELS:
            raise _different("the preprocessing", where, "other pixels", f"at most {PIXEL_LEVELS} level")
        if not np.array_equal(model.tokenize(model.description.captions), golden["tokens"]):
            raise _different("the tokenizer", where, "other ids", "the same ids")
        rows = {"image": model.image_rows(golden["pixels"]), "text": model.text_rows(golden["tokens"])}
        expected = {tower: golden[f"{tower}_embeds"] for tower in TOWERS}
        width = model.config.embed_dim
        if any(not rows[t].shape == expected[t].shape == (len(rows[t]), width) for t in TOWERS):
            raise ValueError("embeddings of another shape")
    except (KeyError, ValueError, DataError) as error:
        raise _different("the golden embeddings", where, f"incomplete ({error})", "all of them") from error
    exact = model.description.precision == "float32" and model.plan.precision == "float32"
    for tower in TOWERS if exact else ():
        far = float(np.abs(rows[tower] - expected[tower]).max())
        if not far <= LARGEST_DIFFERENCE:
            told = f"a difference of {far:.2g}"
            raise _different(f"the {tower} tower", where, told, f"at most {LARGEST_DIFFERENCE:g}")
    return {tower: float((rows[tower] * expected[tower]).sum(axis=1).min()) for tower in TOWERS}


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
            "cannot read the golden embeddings", where=path, found=str(error)[:200]
        ) from error


def _key(plan: Plan) -> str:
    """Return what a measurement depends on besides the folder."""
    found = version(RUNTIMES[plan.backend])
    return f"{processor()}, {plan.threads or core_count()} threads, {_name(plan)} {found}"


def _name(plan: Plan) -> str:
    return f"{plan.backend} {plan.precision}"
