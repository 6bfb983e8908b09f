"""Carry a model from one library's files to another's, and prove that nothing changed on the way.

Writes: a folder that the target library loads by itself (weights, configuration, tokenizer, preprocessing),
`parity.json` (token ids and embeddings of the reference inputs, before and after) and, for foreign formats,
`manifest.json`. The folder appears when its files have been read back and agree, or not at all.

Source: open_clip 3.3 (`create_model_and_transforms("local-dir:…")`), transformers 5.23 (`from_pretrained`),
openai/CLIP (`clip.load`).
"""

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from diptych.core.errors import DataError, DiptychError, IntegrityError, UsageError, unknown_name
from diptych.core.files.durable import staging_folder, write_bytes, write_json, writing
from diptych.core.manifest import FileEntry, Manifest, file_entry, write_manifest
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.data.tokenizers.siglip import SiglipTokenizer
from diptych.models import checkpoint
from diptych.models.files.hub import OPEN_CLIP_CONFIG
from diptych.models.formats.detect import CONVERSION, TRANSFORMERS
from diptych.models.formats.lone_weights import OPENAI_NUMBERS
from diptych.models.formats.open_clip import preprocess_to_open_clip, to_open_clip
from diptych.models.formats.openai import from_openai_state, to_openai_state
from diptych.models.formats.siglip import to_open_clip_siglip
from diptych.models.formats.transformers import preprocess_to_transformers
from diptych.models.load import load
from diptych.models.model import Model
from diptych.models.reference_outputs import reference_tensors
from diptych.models.towers.config import ClipConfig, ResNetConfig
from diptych.models.towers.numerics import require_float32

Target = Literal["diptych", "openai", "open_clip", "transformers"]

PARITY = "parity.json"
OPENAI_WEIGHTS = "model.pt"
TOLERANCE = 1e-6
"""Largest allowed difference of an embedding's component: numbers and code are the same."""


def convert(model: Model, destination: str | Path, to: Target) -> dict[str, Any]:
    """Write a model in another library's format and read it back.

    Args:
        model: in float32.
        destination: a folder that does not exist yet, or is empty.
        to: whose format.

    Returns:
        The parity report: whether the token ids are equal, and for each tower the largest difference of an
        embedding's component and the smallest cosine.

    Raises:
        UsageError: the target has no form for this model, its tokenizer or its preprocessing.
        IntegrityError: what was written does not read back as the same model; nothing is left behind.
    """
    if to not in WRITERS:
        raise unknown_name("format", to, WRITERS, where="--to")
    started = time.monotonic()
    require_float32(model.clip, "convert")
    with staging_folder(destination) as staged:
        try:
            WRITERS[to](model, staged)
        except UsageError as error:
            error.fix = error.fix or _advice(model, to)
            raise
        back = _read_back(model, staged, to)
        report = {"to": to, "source": dict(model.provenance), **_parity(model, back)}
        write_json(staged / PARITY, report)
        _require_equal(report, destination)
        if to != "diptych":
            _write_manifest(model, staged, to, seconds=time.monotonic() - started)
    return report


def _write_diptych(model: Model, folder: Path) -> None:
    checkpoint.save(folder, model)


def _write_open_clip(model: Model, folder: Path) -> None:
    tokenizer, ours = model.tokenizer, model.clip.state_dict()
    if isinstance(tokenizer, SiglipTokenizer):
        clean = tokenizer.save_for_open_clip(folder)
        model_cfg, state = to_open_clip_siglip(model.config, ours, clean=clean)
    else:
        tokenizer.save(folder)
        model_cfg, state = to_open_clip(model.config, ours)
        if not tokenizer.is_published:
            # open_clip's own tokenizer holds OpenAI's merges; with a name here it reads the folder's files.
            model_cfg["text_cfg"] |= {"hf_tokenizer_name": "local"}
    write_bytes(folder / "open_clip_model.safetensors", save_tensors(_plain(state), {"format": "pt"}))
    document = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_to_open_clip(model.preprocess)}
    write_json(folder / OPEN_CLIP_CONFIG, document)


def _write_transformers(model: Model, folder: Path) -> None:
    family = _family(model)
    config, state = TRANSFORMERS[family].write(model.config, model.clip.state_dict())
    # from_pretrained refuses safetensors without this note on their origin.
    write_bytes(folder / "model.safetensors", save_tensors(_plain(state), {"format": "pt"}))
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", preprocess_to_transformers(model.preprocess, family))
    if isinstance(model.tokenizer, SiglipTokenizer):
        model.tokenizer.save_for_transformers(folder)
    else:
        model.tokenizer.save(folder)


def _write_openai(model: Model, folder: Path) -> None:
    """Write an archive for `clip.load`; what it does not say is fixed in OpenAI's code and must be theirs."""
    tokenizer = model.tokenizer
    try:
        state = _plain(to_openai_state(model.clip.state_dict()))
    except DataError:  # no rows for towers of another kind: the architecture is what differs
        state = {}
    usual = Preprocess(size=model.config.vision.image_size)
    checks = {
        "the architecture": (_shape(model.config), _inferred(state)),
        "the activation": (model.config.activation, "quick_gelu"),
        "the preprocessing": (preprocess_to_open_clip(model.preprocess), preprocess_to_open_clip(usual)),
        "no logit_bias": (model.config.logit_bias_init, None),
        "the vocabulary": (isinstance(tokenizer, Tokenizer) and tokenizer.is_published, True),
    }
    for name, (found, expected) in checks.items():
        if found != expected:
            raise UsageError(
                f"OpenAI's code cannot hold this model: {name} is fixed there",
                found=found,
                expected=expected,
            )
    with writing(folder / OPENAI_WEIGHTS) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and `clip.load` reads nothing else
        torch.jit.save(torch.jit.script(_module_tree(state | _numbers(model.config))), file)


def _numbers(config: ClipConfig) -> dict[str, Tensor]:
    """Return what OpenAI's archives hold besides weights; `build_model` leaves them out."""
    numbers = (config.vision.image_size[0], config.text.context_length, config.text.vocab_size)
    return {name: torch.tensor(number) for name, number in zip(OPENAI_NUMBERS, numbers, strict=True)}


class QuickGELU(nn.Module):
    """The activation by its name in OpenAI's archives: it tells readers which one the blocks have."""


def _module_tree(state: Mapping[str, Tensor]) -> nn.Module:
    """Return modules without code whose `state_dict` is this one.

    `clip.load` takes only that from an archive. It cannot read what `torch.save` writes: it tries the open
    file as an archive first, and reads a state dictionary from the end of it then.
    """
    root = nn.Module()
    for name, tensor in state.items():
        place = root
        *path, leaf = name.split(".")
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        if tensor.is_floating_point():
            place.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            place.register_buffer(leaf, tensor)
    for name, module in list(root.named_modules()):
        if name.endswith(".mlp"):
            module.add_module("gelu", QuickGELU())
    return root


def _inferred(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the architecture that OpenAI's code would infer, or nothing where it could infer none."""
    try:
        return _shape(from_openai_state(state, activation="quick_gelu", head_width=64)[0])
    except DiptychError:
        return {}


WRITERS: dict[str, Callable[[Model, Path], None]] = {
    "diptych": _write_diptych,
    "openai": _write_openai,
    "open_clip": _write_open_clip,
    "transformers": _write_transformers,
}


def _advice(model: Model, to: Target) -> str:
    """Name the libraries that do hold a model's towers, for whoever is refused by one."""
    config, state = model.config, model.clip.state_dict()
    siglip = isinstance(model.tokenizer, SiglipTokenizer)
    forms: dict[str, Callable[[], object]] = {
        "open_clip": lambda: (
            to_open_clip_siglip(config, state, clean="") if siglip else to_open_clip(config, state)
        ),
        "transformers": lambda: TRANSFORMERS[_family(model)].write(config, state),
    }
    held = []
    for name, form in forms.items():
        with suppress(UsageError):
            form()
            held.append(f"--to {name}")
    if held and f"--to {to}" not in held:
        return f"take {' or '.join(held)}"
    return "keep the model as a checkpoint of diptych, or export it (ONNX); vision Transformers convert"


def _family(model: Model) -> str:
    """Return which pair of layouts the towers take: "clip", or the kind that a text tower states."""
    return str(getattr(model.config.text, "kind", "clip"))


def _shape(config: ClipConfig) -> dict[str, Any]:
    """Return what OpenAI's code infers from shapes or fixes, apart from ids and starting values."""
    vision, text = config.vision, config.text
    shape = {
        "vision": (
            type(vision).__name__,
            tuple(vision.image_size),
            vision.layers,
            vision.width,
            vision.heads,
        ),
        "text": (text.context_length, text.vocab_size, text.width, text.layers, text.heads, text.mlp_ratio),
        "eps": config.layer_norm_eps,
    }
    if isinstance(vision, ResNetConfig):
        return shape | {"stem_pool": vision.stem_pool}
    return shape | {"patch": getattr(vision, "patch_size", 0), "mlp": getattr(vision, "mlp_ratio", 0.0)}


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, each with memory of its own, as files want them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _read_back(model: Model, folder: Path, to: Target) -> Model:
    if to != "openai":
        return load(folder, backend="torch")
    return load(folder / OPENAI_WEIGHTS, backend="torch", tokenizer=model.tokenizer)


def _parity(model: Model, back: Model) -> dict[str, Any]:
    """Compare two models on the reference images and captions."""
    before, after = reference_tensors(model), reference_tensors(back)
    report: dict[str, Any] = {
        "images": len(before["image_embeds"]),
        "captions": len(before["text_embeds"]),
        "token_ids_equal": torch.equal(before["tokens"], after["tokens"]),
        "pixels_equal": torch.equal(before["pixels"], after["pixels"]),
        "logit_scale_equal": torch.equal(model.clip.logit_scale.cpu(), back.clip.logit_scale.cpu()),
    }
    for kind in ("image_embeds", "text_embeds"):
        one, other = before[kind].double(), after[kind].double()
        report[kind] = {
            "max_difference": (one - other).abs().max().item(),
            "min_cosine": torch.nn.functional.cosine_similarity(one, other).min().item(),
        }
    return report


def _require_equal(report: Mapping[str, Any], destination: str | Path) -> None:
    differences = [report[kind]["max_difference"] for kind in ("image_embeds", "text_embeds")]
    exact = all(report[name] for name in ("token_ids_equal", "pixels_equal", "logit_scale_equal"))
    if not exact or not max(differences) <= TOLERANCE:
        raise IntegrityError(
            "what was written does not read back as the same model; nothing was kept",
            where=destination,
            found=f"{dict(report)}"[:400],
            expected=f"equal tokens and pixels, embeddings within {TOLERANCE:g}",
            fix="report this with the model's name: it is a bug",
        )


def _write_manifest(model: Model, folder: Path, to: Target, *, seconds: float) -> None:
    files = model.provenance.get("files", ())
    inputs = tuple(FileEntry(**entry) for entry in files)
    outputs = tuple(file_entry(path, root=folder) for path in sorted(folder.iterdir()))
    settings = {"to": to, "source": str(model.provenance.get("source", ""))}
    write_manifest(
        folder,
        Manifest(CONVERSION, settings=settings, inputs=inputs, outputs=outputs, seconds=round(seconds, 3)),
    )
