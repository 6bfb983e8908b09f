"""A checkpoint is a folder that describes itself and proves on loading that it still means the same.

Reads and writes: ``model.safetensors`` (weights), ``config.json`` (architecture, preprocessing, tokenizer's
digest, provenance), the tokenizer's own files, ``reference_outputs.safetensors`` (older folders:
``golden.safetensors``) and ``manifest.json`` (sizes and digests of all the others).

Digests catch every changed byte; the reference outputs what digests cannot: another activation, tokenizer,
transform or arithmetic behind the same bytes.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from diptych.core import checks
from diptych.core.errors import DiptychError, IntegrityError, UsageError
from diptych.core.files.durable import sha256_file, staging_folder, write_bytes, write_json
from diptych.core.machine import processor
from diptych.core.manifest import Manifest, file_entry, is_done, write_manifest
from diptych.core.settings import to_mapping
from diptych.data.images.transforms import Preprocess
from diptych.models.formats.layouts import require_fit
from diptych.models.formats.weights import require_finite
from diptych.models.model import Model
from diptych.models.tokenizers import open_tokenizer, vocabulary_file
from diptych.models.towers.clip import Clip, meta_init
from diptych.models.towers.config import ClipConfig, check_sizes
from diptych.models.towers.numerics import current_engine, device_of, require_float32
from diptych.models.verification import CONFIG as CONFIG
from diptych.models.verification import (
    REFERENCE_OUTPUTS,
    Cosines,
    check_reference,
    open_verified,
    reference_arrays,
    reference_captions,
)

KIND = "checkpoint"
FORMAT: Literal[1] = 1
WEIGHTS = "model.safetensors"
RUN_MODEL = "model"  # the checkpoint's place in a run's folder
REMEDY = "restore the checkpoint from a copy, or write it again with save()"


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """Which tokenizer file belongs to the weights."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Description:
    """The content of config.json."""

    format: Literal[1]
    model: ClipConfig
    preprocess: Preprocess
    tokenizer: TokenizerFacts
    provenance: Mapping[str, Any] = field(default_factory=dict)


def save(folder: str | Path, model: Model, *, replace: bool = False) -> Manifest:
    """Write a checkpoint folder, complete or not at all; ``replace`` swaps an existing one.

    Raises:
        UsageError: the folder is not empty, or the weights are not held in float32.
    """
    started = time.monotonic()
    checks.path(folder, "the folder")
    checks.kind(model, Model, "model", fix="write save(folder, model)")
    require_float32(model.clip, "save")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.clip.state_dict().items()}
    with staging_folder(folder, replace=replace) as staged:
        write_bytes(staged / WEIGHTS, save_tensors(state))
        model.tokenizer.save(staged)
        words = TokenizerFacts(sha256_file(vocabulary_file(staged, model.config.text)))
        description = Description(FORMAT, model.config, model.preprocess, words, model.provenance)
        write_json(staged / CONFIG, to_mapping(description))
        write_bytes(staged / REFERENCE_OUTPUTS, save_arrays(reference_arrays(model)))
        outputs = tuple(file_entry(path, root=staged) for path in sorted(staged.iterdir()))
        seconds = round(time.monotonic() - started, 3)
        manifest = Manifest(kind=KIND, format=FORMAT, outputs=outputs, seconds=seconds)
        write_manifest(staged, manifest)
    return manifest


def load(folder: str | Path, *, device: str | torch.device = "cpu", check: bool = False) -> Model:
    """Read a checkpoint folder, verify it, and return the model ready to embed.

    Args:
        folder: as written by `save`, or that of a finished run, whose model it is then.
        device: where the weights go after verification (which runs in float32 on the CPU).
        check: verify everything, even what this machine has verified before and nobody touched since
            (`diptych.models.verification`).

    Raises:
        UsageError: the folder is not a checkpoint.
        IntegrityError: a file is missing or changed, tensors do not fit the architecture, or the model no
            longer gives the embeddings it was saved with. The message names the file and what to do.
    """
    device, folder = device_of(device), _checkpoint_of(Path(folder))
    description, _, cache = open_verified(folder, KIND, Description, _check, force=check)
    try:
        clip = _load_clip(description.model, folder / WEIGHTS)
        words = open_tokenizer(folder, clip.config.text)
        model = Model(clip, words, description.preprocess, description.provenance)
    except IntegrityError:
        raise
    except DiptychError as error:
        what = "the checkpoint's parts do not fit together"
        raise IntegrityError(what, where=folder / CONFIG, found=str(error), fix=REMEDY) from error
    key = f"{processor()}, torch {torch.__version__} {current_engine()}"

    def verify() -> Cosines:
        fix = "use the config.json and tokenizer files that were saved with these weights"
        return check_reference(model, folder, reference_captions(model), fix=fix)

    cache.cosines(key, verify, force=check)
    return model.to(device)


def _check(description: Description) -> str:
    check_sizes(description.model)
    return description.tokenizer.sha256


def _checkpoint_of(folder: Path) -> Path:
    for candidate in (folder, folder / RUN_MODEL):
        if is_done(candidate, KIND) or (candidate / WEIGHTS).is_file():
            return candidate
    found, fix = "no such folder" * (not folder.exists()), "check the path"
    if (folder / "state").is_dir():
        found, fix = "a run that was stopped", "go on with the run (diptych train RECIPE --resume)"
    expected = f"a checkpoint (with {CONFIG} and {WEIGHTS}), or the folder of a finished run"
    raise UsageError("there is no model here", where=folder, found=found, expected=expected, fix=fix)


def _load_clip(config: ClipConfig, path: Path) -> Clip:
    clip = meta_init(config)
    try:
        tensors = load_file(path)  # mapped, not copied: pages are read when they are used
    except (OSError, SafetensorError) as error:
        what = "cannot read the tensors"
        raise IntegrityError(what, where=path, found=str(error)[:200], fix=REMEDY) from error
    require_fit(tensors, clip.state_dict(), _form, config=config, where=path, fix=REMEDY)
    # The reference outputs speak for the towers; reading every page here would cost seconds.
    require_finite({name: tensors[name] for name in tensors if name.startswith("logit_")}, path)
    clip.load_state_dict(tensors, assign=True)
    return clip.eval()


def _form(_: str, tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
