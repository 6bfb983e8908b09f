"""State of a training run: all that resuming it bit by bit needs, in a folder that is complete or absent.

Reads and writes: `RUN/state/step-0000500/` with `state.safetensors` (weights, buffers, Adam's moments),
`state.json` (counters, settings, identity of the data) and `manifest.json` (sizes and digests). No pickle.

Nothing random is stored: order, augmentation and the model's randomness are functions of (seed, position).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from diptych.core.errors import DiptychError, IntegrityError, SettingsError, UsageError
from diptych.core.files.durable import clean_temporaries, remove, staging_folder, write_bytes, write_json
from diptych.core.files.reading import read_json
from diptych.core.manifest import Manifest, file_entry, read_manifest, verify, write_manifest
from diptych.core.settings import from_mapping, with_current_names

KIND = "training state"
FORMAT = 2
TENSORS, FACTS = "state.safetensors", "state.json"
STEP_DIGITS = 7
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what torch's AdamW keeps for every parameter


@dataclass(frozen=True, slots=True)
class Counters:
    """Where a run stands."""

    step: int = 0
    samples_seen: int = 0  # the loader's position
    skipped_steps: int = 0  # left out because loss or gradients were not finite
    skipped_in_row: int = 0  # of them just now
    losses: tuple[float, ...] = ()  # of the steps since the last line of metrics
    seconds: float = 0.0  # of the run so far, over all its sessions
    samples: Mapping[str, Any] = field(default_factory=dict)  # used and dropped, by `Counts.as_dict`


@dataclass(frozen=True, slots=True)
class Facts:
    """The content of state.json."""

    counters: Counters
    identity: Mapping[str, Any]  # settings, architecture, data: what a resumed run must share
    machine: Mapping[str, Any]  # see `machine_facts`


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return what decides the last bits of the arithmetic."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": name}


def save(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, facts: Facts, *, keep: int
) -> Path:
    """Write the state of a step into the folder of all states, then delete all but the newest `keep` ones."""
    final = folder / f"step-{facts.counters.step:0{STEP_DIGITS}d}"
    with staging_folder(final, replace=True) as staged:
        write_bytes(staged / TENSORS, save_tensors(dict(_tensors(module, optimizer))))
        write_json(staged / FACTS, asdict(facts))
        outputs = tuple(file_entry(staged / name, root=staged) for name in (FACTS, TENSORS))
        write_manifest(staged, Manifest(kind=KIND, format=FORMAT, outputs=outputs))
    for old in _states(folder)[keep:]:
        remove(old)
    return final


def latest(folder: Path, log: Callable[[str], None]) -> Path | None:
    """Return the newest state that is complete and undamaged, or None if none was ever written.

    `log` is called with a message for every state that is passed over; if all are damaged, that is an error.
    """
    if not folder.is_dir():
        return None
    clean_temporaries(folder)
    problem: DiptychError | None = None
    for state in _states(folder):
        try:
            if verify(state).kind == KIND:
                return state
        except DiptychError as error:
            log(f"{state.name} cannot be used, trying the one before it: {error}")
            problem = error
    if problem is None:
        return None
    fix = "restore one from a copy, or start the run again in another folder"
    what = "every saved state of this run is damaged"
    raise IntegrityError(what, where=folder, found=str(problem), fix=fix) from problem


def load_facts(state: Path) -> Facts:
    """Read the counters and the identity of a state that `latest` returned."""
    version = read_manifest(state).format
    if version != FORMAT:
        what = "the run was begun by another version of diptych"
        fix = "finish it with that version, or begin again in another folder"
        raise UsageError(what, where=state, found=f"format {version}", expected=f"format {FORMAT}", fix=fix)
    return from_mapping(Facts, with_current_names(read_json(state / FACTS)), where=state / FACTS)


@torch.no_grad()
def restore(state: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copy a state's tensors into a model and its optimizer."""
    try:
        tensors = load_tensors((state / TENSORS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise IntegrityError("cannot read the state", where=state, found=str(error)[:200]) from error
    for name, tensor in module.state_dict().items():
        tensor.copy_(_tensor_like(tensors, f"weights/{name}", tensor, state))
    for name, parameter in module.named_parameters():
        if f"step/{name}" not in tensors:  # frozen, or never stepped
            continue
        moments: dict[str, Tensor] = {}
        for moment in MOMENTS:
            # The fused kernel walks parameter and moments in memory order: both need the same strides.
            like = parameter.new_zeros((), dtype=torch.float32) if moment == "step" else parameter
            empty = torch.zeros_like(like)
            moments[moment] = empty.copy_(_tensor_like(tensors, f"{moment}/{name}", empty, state))
        optimizer.state[parameter] = moments


def require_same(saved: Mapping[str, Any], now: Mapping[str, Any], *, where: object) -> None:
    """Refuse to resume a run whose identity is not that of its saved state; name every setting that differs.

    >>> require_same({"train": {"seed": 1}}, {"train": {"seed": 1}}, where="runs/a")
    """
    old, new = dict(_flat(saved)), dict(_flat(now))
    other = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if other:
        what = f"a run cannot be resumed with another {', '.join(other)}"
        found, expected = (", ".join(f"{name} = {of.get(name)}" for name in other) for of in (new, old))
        fix = "resume with the settings and the data it was started with, or start a new run"
        raise SettingsError(what, where=where, found=found, expected=f"{expected}, as it began", fix=fix)


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda path: path.name, reverse=True)


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in module.state_dict().items():
        yield f"weights/{name}", tensor.cpu().contiguous()
    for name, parameter in module.named_parameters():
        for moment in MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                yield f"{moment}/{name}", optimizer.state[parameter][moment].cpu().contiguous()


def _tensor_like(tensors: Mapping[str, Tensor], name: str, like: Tensor, state: Path) -> Tensor:
    saved = tensors.get(name)
    if saved is None or saved.shape != like.shape or saved.dtype != like.dtype:
        what, where = "the state is not one of this model", f"{state / TENSORS}: {name}"
        found = "no such tensor" if saved is None else f"{saved.dtype} {tuple(saved.shape)}"
        raise IntegrityError(what, where=where, found=found, expected=f"{like.dtype} {tuple(like.shape)}")
    return saved


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value
