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

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from diptych.core.errors import DiptychError, IntegrityError, UsageError, unknown_name
from diptych.core.files.durable import staging_folder, write_bytes, write_json, writing
from diptych.core.manifest import FileEntry, Manifest, file_entry, write_manifest
from diptych.core.settings import to_mapping
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.data.tokenizers.siglip import SiglipTokenizer
from diptych.models import checkpoint
from diptych.models.formats.detect import CONVERSION
from diptych.models.formats.hub import OPEN_CLIP_CONFIG
from diptych.models.formats.layouts import LAYOUTS, State, write_rows
from diptych.models.formats.open_clip import preprocess_to_open_clip, to_open_clip
from diptych.models.formats.openai import ARCHIVE_NUMBERS, HEAD_WIDTH, infer_openai, to_openai_state
from diptych.models.formats.transformers import (
    preprocess_to_transformers,
    to_transformers,
    with_head_and_bias,
)
from diptych.models.load import load
from diptych.models.model import Model
from diptych.models.towers.config import ClipConfig
from diptych.models.towers.numerics import require_float32
from diptych.models.verification import reference_arrays

Target = Literal["diptych", "openai", "open_clip", "transformers"]

PARITY = "parity.json"
OPENAI_WEIGHTS = "model.pt"
TOLERANCE = 1e-6  # largest allowed difference of an embedding's component: numbers and code are the same


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
            error.fix = error.fix or _advice(model.config, to)
            raise
        report = {"to": to, "source": dict(model.provenance), **_parity(model, _read_back(model, staged, to))}
        write_json(staged / PARITY, report)
        _require_equal(report, destination)
        if to != "diptych":
            manifest = Manifest(
                CONVERSION,
                settings={"to": to, "source": str(model.provenance.get("source", ""))},
                inputs=tuple(FileEntry(**entry) for entry in model.provenance.get("files", ())),
                outputs=tuple(file_entry(path, root=staged) for path in sorted(staged.iterdir())),
                seconds=round(time.monotonic() - started, 3),
            )
            write_manifest(staged, manifest)
    return report


def _write_open_clip(model: Model, folder: Path) -> None:
    tokenizer = model.tokenizer
    if isinstance(tokenizer, SiglipTokenizer):
        model_cfg = to_open_clip(model.config, clean=tokenizer.save_for_open_clip(folder))
    else:
        tokenizer.save(folder)
        model_cfg = to_open_clip(model.config)
        if not tokenizer.is_published:
            # open_clip's own tokenizer holds OpenAI's merges; with a name here it reads the folder's files.
            model_cfg["text_cfg"] |= {"hf_tokenizer_name": "local"}
    _write_tensors(folder / "open_clip_model.safetensors", "open_clip", model, model.clip.state_dict())
    document = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_to_open_clip(model.preprocess)}
    write_json(folder / OPEN_CLIP_CONFIG, document)


def _write_transformers(model: Model, folder: Path) -> None:
    config = to_transformers(model.config)
    state = with_head_and_bias(model.config, model.clip.state_dict())
    _write_tensors(folder / "model.safetensors", "transformers", model, state)
    write_json(folder / "config.json", config)
    processor = preprocess_to_transformers(model.preprocess, config["model_type"])
    write_json(folder / "preprocessor_config.json", processor)
    if isinstance(model.tokenizer, SiglipTokenizer):
        model.tokenizer.save_for_transformers(folder)
    else:
        model.tokenizer.save(folder)


def _write_tensors(path: Path, library: str, model: Model, state: State) -> None:
    theirs = write_rows(LAYOUTS[library](model.config, state), state)
    # from_pretrained refuses safetensors without this note on their origin.
    write_bytes(path, save_tensors(_plain(theirs), {"format": "pt"}))


def _write_openai(model: Model, folder: Path) -> None:
    """Write an archive for `clip.load`; what it does not say is fixed in OpenAI's code and must be theirs."""
    config, tokenizer = model.config, model.tokenizer
    siglip = "siglip" in (config.vision.kind, config.text.kind)
    state = {} if siglip else _plain(to_openai_state(model.clip.state_dict()))
    usual = Preprocess(size=config.vision.image_size)
    checks = {
        "the architecture": (_architecture(config), _inferred(state)),
        "the activation": (config.activation, "quick_gelu"),
        "the preprocessing": (preprocess_to_open_clip(model.preprocess), preprocess_to_open_clip(usual)),
        "no logit_bias": (config.logit_bias_init, None),
        "the vocabulary": (isinstance(tokenizer, Tokenizer) and tokenizer.is_published, True),
    }
    for name, (actual, expected) in checks.items():
        if actual != expected:
            what = f"OpenAI's code cannot hold this model: {name} is fixed there"
            raise UsageError(what, found=actual, expected=expected)
    numbers = (config.vision.image_size[0], config.text.context_length, config.text.vocab_size)
    state |= {name: torch.tensor(number) for name, number in zip(ARCHIVE_NUMBERS, numbers, strict=True)}
    with writing(folder / OPENAI_WEIGHTS) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and `clip.load` reads nothing else
        torch.jit.save(torch.jit.script(_module_tree(state)), file)


def _inferred(state: State) -> dict[str, Any]:
    """Return the architecture that OpenAI's code would infer, or nothing where it could infer none."""
    with suppress(DiptychError):
        return _architecture(infer_openai(state, activation="quick_gelu", head_width=HEAD_WIDTH))
    return {}


def _architecture(config: ClipConfig) -> dict[str, Any]:
    """Return what OpenAI's code infers from shapes or fixes, apart from ids and starting values."""
    towers = [(part, to_mapping(getattr(config, part))) for part in ("vision", "text")]
    shape = {f"{part}.{name}": value for part, tower in towers for name, value in tower.items()}
    free = {"text.start_id", "text.end_id", "vision.residual_gain"}
    return {name: shape[name] for name in shape.keys() - free} | {"layer_norm_eps": config.layer_norm_eps}


class QuickGELU(nn.Module):
    """The activation's name in OpenAI's archives, which tells readers what the blocks have."""


def _module_tree(state: State) -> nn.Module:
    """Return modules without code whose `state_dict` is this one.

    `clip.load` takes only that from an archive. It cannot read what `torch.save` writes: it tries the open
    file as an archive first, and reads a state dictionary from the end of it then.
    """
    root = nn.Module()
    for name, tensor in state.items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if tensor.is_floating_point():
            module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(last, tensor)
    for name, module in list(root.named_modules()):
        if name.endswith(".mlp"):
            module.add_module("gelu", QuickGELU())
    return root


WRITERS: dict[str, Callable[[Model, Path], object]] = {
    "diptych": lambda model, folder: checkpoint.save(folder, model),
    "openai": _write_openai,
    "open_clip": _write_open_clip,
    "transformers": _write_transformers,
}


def _advice(config: ClipConfig, to: Target) -> str:
    """Name the libraries that do hold a model's towers, for whoever is refused by one."""
    forms: dict[str, Callable[..., object]] = {"open_clip": to_open_clip, "transformers": to_transformers}
    libraries = []
    for name, form in forms.items():
        with suppress(UsageError):
            form(config)
            libraries.append(f"--to {name}")
    if libraries and f"--to {to}" not in libraries:
        return f"take {' or '.join(libraries)}"
    return "keep the model as a checkpoint of diptych, or export it (ONNX); vision Transformers convert"


def _plain(state: State) -> dict[str, Tensor]:
    """Return tensors on the CPU, each with memory of its own, as files want them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _read_back(model: Model, folder: Path, to: Target) -> Model:
    if to != "openai":
        return load(folder, backend="torch")
    return load(folder / OPENAI_WEIGHTS, backend="torch", tokenizer=model.tokenizer)


def _parity(model: Model, back: Model) -> dict[str, Any]:
    """Compare two models on the reference images and captions."""
    before, after = reference_arrays(model), reference_arrays(back)
    report: dict[str, Any] = {
        "images": len(before["image_embeds"]),
        "captions": len(before["text_embeds"]),
        "token_ids_equal": np.array_equal(before["tokens"], after["tokens"]),
        "pixels_equal": np.array_equal(before["pixels"], after["pixels"]),
        "logit_scale_equal": torch.equal(model.clip.logit_scale.cpu(), back.clip.logit_scale.cpu()),
    }
    for kind in ("image_embeds", "text_embeds"):
        one, other = (torch.from_numpy(each[kind]).double() for each in (before, after))
        report[kind] = {
            "max_difference": (one - other).abs().max().item(),
            "min_cosine": torch.nn.functional.cosine_similarity(one, other).min().item(),
        }
    return report


def _require_equal(report: Mapping[str, Any], destination: str | Path) -> None:
    differences = [report[kind]["max_difference"] for kind in ("image_embeds", "text_embeds")]
    exact = all(report[name] for name in ("token_ids_equal", "pixels_equal", "logit_scale_equal"))
    if not exact or not max(differences) <= TOLERANCE:
        what = "what was written does not read back as the same model; nothing was kept"
        found, expected = f"{report}"[:400], f"equal tokens and pixels, embeddings within {TOLERANCE:g}"
        fix = "report this with the model's name: it is a bug"
        raise IntegrityError(what, where=destination, found=found, expected=expected, fix=fix)
