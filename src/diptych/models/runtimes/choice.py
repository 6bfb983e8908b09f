"""Which runtime an exported model runs in.

The rule of "auto": the first line of `TABLE` that suits the processor and the files gives the order; of the
installed runtimes in it the first is taken whose embeddings of the reference inputs keep a cosine of at least
0.9999 with the float32 original's (a file that was quantized below that: the cosine that it states). Nothing
is timed on the user's machine, so equal processors choose equally.

Writes: the cosines of each runtime here, into the folder's verification cache.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from diptych.core.errors import DiptychError, IntegrityError, MissingPackageError
from diptych.core.machine import processor, processor_flags, warn_of_emulated_bfloat16
from diptych.models.files.verification_cache import VerificationCache, reference_file
from diptych.models.reference_outputs import check_reference, read_reference
from diptych.models.runtimes.engines import RUNTIMES, Plan, Precision, installed

M = TypeVar("M")  # an exported model, as `exported` opens it

ENOUGH_COSINE = 0.9999
COSINE_SLACK = 5e-4  # of what a quantized file states: processors round sums differently
CHOSEN_SLACK = 5e-3  # where the user chose runtime and arithmetic: then only a broken model is refused
REMEDY = "export the model again, or choose another backend"


class Measurement(NamedTuple):
    """A line of `TABLE`: backends and arithmetic, the fastest first, on processors with one of the flags.

    No flags: every processor. `files` are the precisions of the files that it holds for; none: all.
    """

    flags: frozenset[str]
    files: frozenset[str]
    plans: tuple[tuple[str, Precision], ...]


# Measured: images and texts a second, as multiples of open_clip's in float32 (ViT-B/32, batch 32, 2 cores;
# texts padded to 77 tokens); `LOG.md` has the entries. The first line that suits decides.
TABLE = (
    # AMD EPYC: OpenVINO bfloat16 3.2 and 15 to 18; of int8 files 4.9 and 25, in float32 4.9 and 20 to 23, in
    # ONNX Runtime 15 for texts. Intel Xeon with AMX: OpenVINO 4.9. float32 is alike in both.
    Measurement(
        frozenset({"avx512_bf16", "amx_bf16"}),
        frozenset(),
        (("openvino", "bfloat16"), ("openvino", "float32"), ("onnx", "float32")),
    ),
    # The same processors without their bfloat16: OpenVINO 4.9 and 20 to 23, ONNX Runtime 15 for texts.
    Measurement(
        frozenset({"avx512_vnni", "avx_vnni", "amx_int8"}),
        frozenset({"int8"}),
        (("openvino", "float32"), ("onnx", "float32")),
    ),
    # AMD EPYC with AVX2 only: int8 files 2.3 in ONNX Runtime, 1.2 in OpenVINO; float32 1.3 in both, and ONNX
    # Runtime is at its first embedding in 0.9 s, OpenVINO in 1.3 s. Others: not measured.
    Measurement(frozenset(), frozenset(), (("onnx", "float32"), ("openvino", "float32"))),
)


def plans(backend: str, precision: Precision | None, threads: int | None, *, files: str) -> list[Plan]:
    """List the plans to try, the fastest first.

    Args:
        backend: one of `RUNTIMES`, or "auto": by `TABLE`.
        precision: of the arithmetic; None: float32 with a named backend, else by `TABLE`.
        threads: of the runtime; None: one a core.
        files: what the files' weights are held in.
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
        what, fix = (
            "no runtime is installed that can run this export",
            f"pip install 'diptych[{order[-1][0]}]'",
        )
        raise MissingPackageError(what, expected=" or ".join(needed), fix=fix)
    return usable


def choose(
    candidates: Sequence[Plan],
    opened: Callable[[Plan], M],
    cache: VerificationCache,
    folder: Path,
    *,
    force: bool,
) -> M:
    """Open the model by the first of the plans that keeps the cosine (see the module's first lines)."""
    failures: list[DiptychError] = []
    for plan in candidates:
        model = opened(plan)
        try:
            _require_cosine(model, cache, folder, named=len(candidates) == 1, force=force)
        except DiptychError as error:
            failures.append(error)
            continue
        return model
    raise failures[0]


def _require_cosine(model: Any, cache: VerificationCache, folder: Path, *, named: bool, force: bool) -> None:
    description, plan = model.description, model.plan
    key = f"{processor()}, {plan.backend} {plan.precision} {version(RUNTIMES[plan.backend])}"
    cosines = None if force else cache.get(key)
    if cosines is None:
        exact = description.precision == plan.precision == "float32"
        stored = read_reference(reference_file(folder))
        cosines = check_reference(model, stored, description.captions, where=folder, fix=REMEDY, exact=exact)
        cache.put(key, cosines)
    stated = stated_cosine(description.parity)
    least = ENOUGH_COSINE if stated >= ENOUGH_COSINE else stated - COSINE_SLACK
    if named:
        least = stated - CHOSEN_SLACK
    for tower in ("image", "text"):
        cosine = cosines.get(tower, 0.0)
        if not cosine >= least:
            raise IntegrityError(
                f"the {tower} tower of this export no longer gives what it gave when it was written",
                where=folder,
                found=f"cosine {cosine:.5f} with {plan.backend} {plan.precision}",
                expected=f"{least:.5f} with the original's",
                fix=REMEDY,
            )


def stated_cosine(parity: Mapping[str, Mapping[str, float]]) -> float:
    """Return the smallest cosine on the reference inputs that an export states."""
    names = ("reference_cosine_min", "golden_cosine_min")  # the second in older exports
    return min((part[name] for part in parity.values() for name in names if name in part), default=1.0)
