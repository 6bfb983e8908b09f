"""Which runtime suits an exported model here: checked on first use, measured where there is a choice.

The rule of "auto": of the installed runtimes, each in every arithmetic that this processor has, the fastest
whose embeddings of the golden inputs keep a cosine of at least 0.9999 with the float32 original's; a file
that was quantised below that keeps the cosine that it states. Ties and failures fall to the earlier of
`plans`.

Reads and writes: `measured.json` in the model's folder: sizes and times of the files whose digests were
checked, and what each runtime did here. It is a memory, not a part of the model: without it, or where it
cannot be written, everything is found out again. Another processor, another version of a runtime or a touched
file make it void.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import DiptychError, EnvironmentFault, IntegrityError, MissingPackageError
from diptych.core.files import write_json
from diptych.core.manifest import Manifest, check_file
from diptych.data.images import evaluation_pixels
from diptych.models.runtimes import RUNTIMES, Plan, Precision, core_count, installed, multiplies_bfloat16

if TYPE_CHECKING:
    from diptych.models.backends import ExportedModel

NOTES = "measured.json"
ENOUGH_COSINE = 0.9999
COSINE_SLACK = 5e-4
"""How far a quantised file may stay behind the cosine that it states: processors round sums differently."""
LARGEST_DIFFERENCE = 1e-4
"""Of a component, for float32 files in float32: as checkpoints allow (`diptych.models.golden.TOLERANCE`)."""
CHOSEN_SLACK = 5e-3
"""The same where the user chose runtime and arithmetic: then only a broken model is refused."""
PIXEL_LEVELS = 1
TOWERS = ("image", "text")
TIMED_BATCH, TIMED_RUNS = 8, 3

Measured = dict[str, float]


class Notes:
    """What this machine knows about a folder, in `measured.json`.

    Args:
        folder: of the export.
        manifest: its receipt.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._files: dict[str, list[int]] = {}
        self._here: dict[str, dict[str, Measured]] = {}
        # Whatever is wrong with a memory, forgetting it is right.
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            noted = json.loads((folder / NOTES).read_text(encoding="utf-8"))
            self._files = {str(name): list(map(int, stat)) for name, stat in noted["files"].items()}
            self._here = {
                str(key): {
                    str(plan): {k: float(v) for k, v in found.items()} for plan, found in of_key.items()
                }
                for key, of_key in noted["machines"].items()
            }

    def check_files(self, *, force: bool) -> None:
        """Hold every file against its digest, unless it is the very file that was checked before.

        Raises:
            IntegrityError: a file is missing or changed.
        """
        known = {} if force else self._files
        now = {}
        for entry in self._manifest.outputs:
            path = self._folder / entry.name
            if known.get(entry.name) is None or known[entry.name] != _stat(path):
                check_file(self._folder, entry)
            now[entry.name] = _stat(path)
        if now != self._files:
            self._files, self._here = now, {}
            self._write()

    def measured(self, plan: Plan) -> Measured | None:
        """Return what a plan did here, if it ran before."""
        return self._here.get(_machine(plan), {}).get(_name(plan))

    def remember(self, plan: Plan, found: Measured) -> None:
        """Note what a plan did here."""
        self._here.setdefault(_machine(plan), {})[_name(plan)] = found
        self._write()

    def _write(self) -> None:
        with suppress(EnvironmentFault):  # a folder that cannot be written is measured every time
            write_json(self._folder / NOTES, {"files": self._files, "machines": self._here})


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
    opened: "Callable[[Plan], ExportedModel]",
    notes: Notes,
    *,
    golden: Path,
    force: bool = False,
) -> "ExportedModel":
    """Open the model by the best of the plans (see the module's first lines).

    Raises:
        IntegrityError: with none of them it embeds as it should; tells about the first.
    """
    failures: list[DiptychError] = []
    best: tuple[float, ExportedModel] | None = None
    for plan in found:
        model = opened(plan)
        measured, timed = None if force else notes.measured(plan), len(found) > 1
        try:
            if measured is None or (timed and "seconds" not in measured):
                measured = _try(model, golden, timed=timed)
                notes.remember(plan, measured)
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


def stated_cosine(parity: Mapping[str, Any]) -> float:
    """Return the smallest cosine on the golden inputs that an export states."""
    return min((float(part["golden_cosine_min"]) for part in parity.values()), default=1.0)


def _floor(model: "ExportedModel", *, chosen: bool) -> float:
    """Return the cosine that is required: less where the user named the runtime and its arithmetic."""
    stated = stated_cosine(model.description.parity)
    if chosen:
        return stated - CHOSEN_SLACK
    return ENOUGH_COSINE if stated >= ENOUGH_COSINE else stated - COSINE_SLACK


def _require_cosine(model: "ExportedModel", measured: Measured, where: Path, *, floor: float) -> None:
    for tower in TOWERS:
        cosine = measured.get(tower, 0.0)
        if not cosine >= floor:
            told = f"cosine {cosine:.5f} with {_name(model.plan)}"
            raise _different(f"the {tower} tower", where, told, f"{floor:.5f} with the original's")


def _try(model: "ExportedModel", golden: Path, *, timed: bool) -> Measured:
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


def check_golden(model: "ExportedModel", golden: Mapping[str, NDArray[Any]], *, where: Path) -> Measured:
    """Hold an exported model against the embeddings of the original; return each tower's smallest cosine.

    Raises:
        IntegrityError: preprocessing or tokenizer give something else, or a tower does that should be exact.
    """
    try:
        pictures = [golden[name] for name in sorted(golden) if name.startswith("picture_")]
        pixels = np.stack([evaluation_pixels(Image.fromarray(x), model.preprocess) for x in pictures])
        tokens = model.tokenize(model.description.captions)
        same_pixels = np.abs(pixels.astype(int) - golden["pixels"]).max() <= PIXEL_LEVELS
        rows = {"image": model.image_rows(golden["pixels"]), "text": model.text_rows(golden["tokens"])}
        expected = {tower: golden[f"{tower}_embeds"] for tower in TOWERS}
    except (KeyError, ValueError) as error:
        raise _different("the golden embeddings", where, f"incomplete ({error})", "all of them") from error
    if not same_pixels:
        raise _different("the preprocessing", where, "other pixels", f"at most {PIXEL_LEVELS} level")
    if not np.array_equal(tokens, golden["tokens"]):
        raise _different("the tokenizer", where, "other ids", "the same ids")
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
    except (OSError, SafetensorError) as error:
        raise IntegrityError(
            "cannot read the golden embeddings", where=path, found=str(error)[:200]
        ) from error


def _machine(plan: Plan) -> str:
    """Return what a measurement depends on besides the folder."""
    found = version(RUNTIMES[plan.backend])
    return f"{_processor()}, {plan.threads or core_count()} threads, {plan.backend} {found}"


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()


def _name(plan: Plan) -> str:
    return f"{plan.backend} {plan.precision}"


def _stat(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
