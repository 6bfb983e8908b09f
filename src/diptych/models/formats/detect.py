"""Recognise the format of a model's files by looking at them, and read its parts.

Reads: an open_clip folder (`open_clip_config.json`), a transformers folder (`config.json`), a file of weights
alone in OpenAI's layout, or one of those files in its folder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.core.errors import (
    DataError,
    DiptychError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from diptych.core.files.json_objects import read_json
from diptych.core.files.listing import is_data
from diptych.core.manifest import is_done
from diptych.data.images.transforms import Preprocess
from diptych.models.checkpoint import CONFIG, KIND, RUN_MODEL
from diptych.models.files.hub import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, WEIGHTS
from diptych.models.files.parts import Parts, State, malformed, unsupported
from diptych.models.files.references import WEIGHTS_SUFFIXES
from diptych.models.files.weights import Weights, read_weights
from diptych.models.formats.lone_weights import read_alone, stated_activation
from diptych.models.formats.open_clip import from_open_clip, preprocess_from_open_clip, to_open_clip
from diptych.models.formats.open_clip_tokenizer import stated_cleaning
from diptych.models.formats.openai import clean
from diptych.models.formats.sentence_transformers import clip_folder
from diptych.models.formats.siglip import (
    from_open_clip_siglip,
    from_transformers_siglip,
    to_open_clip_siglip,
    to_transformers_siglip,
)
from diptych.models.formats.transformers import (
    from_transformers,
    preprocess_from_transformers,
    to_transformers,
    without_positions,
)
from diptych.models.towers.config import Activation, ClipConfig, check_sizes

CONVERSION = "conversion"  # the kind of receipt that `diptych convert` leaves
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""In the order of transformers, which takes the first only where it holds an `image_processor`."""
SHOWN = 6  # names in a message
SHOWN_CHARACTERS = 80  # of a name in a message
NO_FILE = Path("config=")  # where a configuration that was passed comes from, in messages

Told = str | Path | Mapping[str, Any]
Reader = Callable[[Mapping[str, Any], State], tuple[ClipConfig, dict[str, Tensor]]]
Writer = Callable[[ClipConfig, State], tuple[dict[str, Any], dict[str, Tensor]]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a family of models looks in one library's files.

    Attributes:
        read: their configuration and tensors → ours.
        write: ours → theirs.
        clean: leaves out what is no weight, so that the rest is exactly what `write` gives; None where `read`
            holds every tensor against the towers itself.
    """

    read: Reader
    write: Writer
    clean: Callable[[State], State] | None


TRANSFORMERS = {
    "clip": Layout(from_transformers, to_transformers, without_positions),
    "siglip": Layout(from_transformers_siglip, to_transformers_siglip, None),
}
"""By the `model_type` of config.json, which is also the `kind` of our text tower."""

OPEN_CLIP = {
    "clip": Layout(from_open_clip, to_open_clip, clean),
    "siglip": Layout(from_open_clip_siglip, to_open_clip_siglip, None),
}
"""By `open_clip_family`."""


def is_ours(path: Path) -> bool:
    """Tell whether a folder is a checkpoint of diptych or a finished run, damaged or not."""
    if not path.is_dir():
        return False
    if is_done(path, KIND) or is_done(path / RUN_MODEL, KIND) or (path / "state").is_dir():
        return True
    config = path / CONFIG
    if (path / OPEN_CLIP_CONFIG).is_file() or not config.is_file():
        return False
    return {"format", "model", "tokenizer"} <= read_json(config).keys()


def read_parts(path: Path, activation: Activation | None, config: Told | None = None) -> Parts:
    """Read a folder or file that is not a checkpoint of ours.

    Args:
        path: folder, weights file or index.
        activation: what the caller says; needed for weights alone, else it must agree.
        config: of weights that lie alone: open_clip's or transformers' JSON file, or its content.

    Raises:
        UsageError: nothing here is a model, or the activation or configuration must be passed.
        IntegrityError: a file is damaged or does not fit the others.
    """
    folder, file = (clip_folder(path), None) if path.is_dir() else (path.parent, path)
    if file is not None and is_ours(folder):
        raise UsageError(
            "this is a part of a checkpoint of diptych",
            where=file,
            fix=f"load the folder {folder}",
        )
    beside = [folder / name for name in (OPEN_CLIP_CONFIG, CONFIG) if (folder / name).is_file()]
    if beside and config is not None:
        raise UsageError(
            "a configuration lies beside the weights",
            where=beside[0],
            fix="leave config= out, or move the weights",
        )
    told = beside[0] if beside else config
    if told is None:
        return read_alone(folder if file is None else None, file or _weights_in(folder, ()), activation)
    source = NO_FILE if isinstance(told, Mapping) else Path(told)
    document = told if isinstance(told, Mapping) else read_json(source)
    if source.name == OPEN_CLIP_CONFIG or document.keys() & {"model_cfg", "vision_cfg"}:
        weights = file or _weights_in(folder, (*OPEN_CLIP_WEIGHTS, *WEIGHTS))
        parts = _open_clip(document, source, weights)
    else:
        parts = _transformers(document, source, file or _weights_in(folder, WEIGHTS))
    if activation is not None and activation != parts.config.activation:
        raise UsageError(
            "the files state another activation than the one passed",
            where=parts.where,
            found=activation,
            expected=parts.config.activation,
            fix="leave activation= out",
        )
    return parts


def open_clip_family(model_cfg: Mapping[str, Any]) -> str:
    """Return which layout an open_clip configuration asks for, or what else it describes."""
    vision = model_cfg.get("vision_cfg")
    text = model_cfg.get("text_cfg")
    timm = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    language_model = text.get("hf_model_name") if isinstance(text, Mapping) else None
    if model_cfg.get("multimodal_cfg") is not None:
        return "CoCa (multimodal_cfg)"
    if isinstance(language_model, str):
        return f"a text tower of transformers (hf_model_name {language_model[:SHOWN_CHARACTERS]})"
    if not isinstance(timm, str):
        return "clip"
    return (
        "siglip"
        if "siglip" in timm
        else f"an image tower of timm (timm_model_name {timm[:SHOWN_CHARACTERS]})"
    )


def _open_clip(document: Mapping[str, Any], path: Path, weights: Path) -> Parts:
    # What open_clip trains with (`model_configs/*.json`) is the model's table alone: it states no transform.
    alone = "vision_cfg" in document
    model_cfg = document if alone else document.get("model_cfg")
    preprocess_cfg = document.get("preprocess_cfg") or {}
    if not isinstance(model_cfg, Mapping) or not isinstance(preprocess_cfg, Mapping):
        raise malformed(path, "no model_cfg", "tables model_cfg and preprocess_cfg")
    family = open_clip_family(model_cfg)
    if family not in OPEN_CLIP:
        raise unsupported(path, "open_clip", family)
    cleaning = stated_cleaning(model_cfg, family, (path if path.is_file() else weights).parent)
    layout, found = OPEN_CLIP[family], read_weights(weights)
    config, state = _translated(layout.read, model_cfg, found, path, "open_clip")
    return Parts(
        "open_clip",
        config,
        state,
        layout.clean(found.tensors) if layout.clean else None,
        lambda ours: layout.write(config, ours)[1],
        None if alone else _stated(preprocess_from_open_clip, preprocess_cfg, config, path, "open_clip"),
        (*_on_disk(path), *found.files),
        path.parent if path.is_file() else None,
        weights,
        cleaning,
        found.taken_from,
    )


def _on_disk(*paths: Path | None) -> tuple[Path, ...]:
    return tuple(path for path in paths if path is not None and path.is_file())


def _transformers(document: Mapping[str, Any], path: Path, weights: Path) -> Parts:
    family = document.get("model_type")
    if not isinstance(family, str | None):
        raise malformed(path, f"model_type of type {type(family).__name__}", " or ".join(TRANSFORMERS))
    if family not in TRANSFORMERS:
        kind = f"model_type {family[:SHOWN_CHARACTERS]!r}" if family else "no model_type"
        raise unsupported(path, "transformers", kind)
    layout, found = TRANSFORMERS[family], read_weights(weights)
    config, state = _translated(layout.read, document, found, path, "transformers")
    processor, settings = _processor(path.parent) if path.is_file() else (None, {})
    preprocess = None
    if processor is not None:
        reader = partial(preprocess_from_transformers, family=family)
        preprocess = _stated(reader, settings, config, processor, "transformers")
    return Parts(
        "transformers",
        config,
        state,
        layout.clean(found.tensors) if layout.clean else None,
        lambda ours: layout.write(config, ours)[1],
        preprocess,
        (*_on_disk(path, processor), *found.files),
        path.parent if path.is_file() else None,
        weights,
        taken_from=found.taken_from,
    )


def _processor(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """Return the file that tells how images are prepared, and its content."""
    nested, flat = (folder / name for name in PROCESSORS)
    found = read_json(nested) if nested.is_file() else {}
    if found.get("image_processor") is not None:
        return nested, found
    return (flat, read_json(flat)) if flat.is_file() else (None, {})


def _weights_in(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the weights of a folder: the first of the usual names, else the only file that can be."""
    usual = next((folder / name for name in names if (folder / name).is_file()), None)
    if usual is not None:
        return usual
    held = sorted(folder.iterdir()) if folder.is_dir() else []
    others = [path for path in held if path.suffix in WEIGHTS_SUFFIXES and is_data(path.name)]
    if len(others) == 1:
        return others[0]
    raise UsageError(
        "there is no model here",
        where=folder,
        found=", ".join(path.name for path in others[:SHOWN]) or "no weights",
        expected=f"a checkpoint of diptych, {OPEN_CLIP_CONFIG} or {CONFIG} with weights, or one weights file",
        fix="give the weights file itself" if others else "check the path",
    )


def _setting(error: UsageError) -> str:
    """Return which setting of a configuration an error is about."""
    return f"{error.where}: {error.found}" if error.found else f"{error.where}: {error.what}"


def _translated(
    reader: Reader, config: Mapping[str, Any], found: Weights, path: Path, library: str
) -> tuple[ClipConfig, dict[str, Tensor]]:
    try:
        ours, state = reader(config, found.tensors)
        check_sizes(ours)
    except DataError as error:
        error.where = str(found.files[0])
        raise
    except (UnsupportedError, UnknownNameError) as error:
        raise unsupported(path, library, _setting(error)) from error
    except (DiptychError, OverflowError, ValueError) as error:
        raise malformed(path, str(error), "the configuration of a CLIP") from error
    if stated_activation(found) not in (None, ours.activation):
        raise UsageError(
            "the archive states another activation than its configuration",
            where=path,
            found=ours.activation,
            expected=stated_activation(found),
            fix="give the configuration that belongs to these weights",
        )
    return ours, state


def _stated(
    reader: Callable[[Mapping[str, Any], tuple[int, int]], Preprocess],
    settings: Mapping[str, Any],
    config: ClipConfig,
    path: Path,
    library: str,
) -> Preprocess:
    try:
        return reader(settings, config.vision.image_size)
    except (UnsupportedError, UnknownNameError) as error:
        raise unsupported(path, library, _setting(error)) from error
    except DiptychError as error:
        raise malformed(path, str(error), "a preprocessing that this package has") from error
