"""Load any CLIP: from a folder or file on disk, a hub id, or a public short name.

An export runs in its own runtime, without torch; everything else is put together by `assemble`, which is
imported only then. Writes: nothing but the hub's cache and a folder's verification cache.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from diptych.core.errors import UsageError, unknown_name
from diptych.models.formats.references import LoadOptions, resolve
from diptych.models.runtimes.exported import is_export, load_exported

if TYPE_CHECKING:
    from diptych.models.formats.hub import Hub
    from diptych.models.model import Model
    from diptych.models.towers.numerics import HeldIn

Backend = Literal["auto", "torch", "onnx", "openvino"]
BACKENDS: tuple[Backend, ...] = ("auto", "torch", "onnx", "openvino")


def load(
    ref: str | Path,
    *,
    backend: Backend = "auto",
    device: Any = "cpu",
    precision: "HeldIn | None" = None,
    hub: "Hub | None" = None,
    **options: Unpack[LoadOptions],
) -> "Model":
    """Load a model ready to embed.

    Args:
        ref: a folder (checkpoint, finished run or export of diptych, open_clip, transformers), a weights file
            (OpenAI's archives and state dictionaries, open_clip, training checkpoints), a hub id
            (`openai/clip-vit-base-patch32`, `hf-hub:…`, `…@revision`) or a public short name
            (`ViT-B-32/laion2b_s34b_b79k`). What is on disk goes first.
        backend: "auto": torch, and for an export the fastest runtime for this processor that keeps a cosine
            of 0.9999 (or what a quantized file states); "onnx", "openvino": of an export only.
        device: where the weights go.
        precision: of the weights; "auto": bfloat16 where the processor multiplies it. None: float32; for an
            export what suits the backend.
        hub: revision, cache and whether the network may be used.
        **options: what the files do not say; see `LoadOptions`.

    Returns:
        A `Model`; for an export an `ExportedModel`: the same methods, arrays for tensors.

    Raises:
        UsageError: there is no such model, or the files do not tell something that must be passed then.
        IntegrityError: a file is damaged or unfit. EnvironmentFault: the hub cannot be reached.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", str(backend), BACKENDS)
    if unknown := options.keys() - LoadOptions.__annotations__.keys():
        raise TypeError(f"load() got an unexpected keyword argument {min(unknown)!r}")
    reference = resolve(ref)  # before torch is imported
    if reference.path is not None and is_export(reference.path):
        _refuse(ref, backend, [name for name, value in options.items() if value is not None])
        chosen = None if precision == "auto" else precision
        return cast("Model", load_exported(ref, backend, precision=chosen).to(device))
    if backend in ("onnx", "openvino"):
        fix = f"diptych export {ref} OUT, then load OUT"
        raise UsageError(f"only an export runs on {backend}", where=ref, fix=fix)
    from diptych.models.assemble import assemble
    from diptych.models.formats.hub import Hub

    return assemble(reference, options, device=device, precision=precision or "float32", hub=hub or Hub())


def _refuse(ref: str | Path, backend: Backend, options: list[str]) -> None:
    if options:
        found = ", ".join(f"{name}=" for name in options)
        raise UsageError("an export says all of this itself", where=ref, found=found, fix="leave them out")
    if backend == "torch":
        expected, fix = 'backend="auto", "onnx" or "openvino"', "load the checkpoint that was exported"
        raise UsageError("torch does not read exports", where=ref, expected=expected, fix=fix)
