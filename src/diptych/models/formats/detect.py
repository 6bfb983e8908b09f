"""Recognize the format of a model's files by looking at them, and read its parts.

Reads: an open_clip folder (`open_clip_config.json`), a transformers folder (`config.json`), a folder of
sentence-transformers (`modules.json`), a file of weights alone in OpenAI's layout, or one of those files in
its folder. What weights alone do not say is asked for, never guessed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.core.errors import (
    DataError,
    DiptychError,
    IntegrityError,
    SettingsError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
    unknown_name,
)
from diptych.core.files.reading import is_data, read_json
from diptych.core.manifest import is_done
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.siglip_engines import Cleaning
from diptych.models.checkpoint import CONFIG, KIND, RUN_MODEL
from diptych.models.formats.hub import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, WEIGHTS
from diptych.models.formats.layouts import LAYOUTS, SCALARS, read_rows, require_fit, weights_only, write_rows
from diptych.models.formats.open_clip import (
    ALLOWED,
    from_open_clip,
    open_clip_family,
    preprocess_from_open_clip,
    stated_cleaning,
)
from diptych.models.formats.openai import ARCHIVE_NUMBERS, HEAD_WIDTH, infer_openai
from diptych.models.formats.references import WEIGHTS_SUFFIXES
from diptych.models.formats.transformers import FAMILIES, from_transformers, preprocess_from_transformers
from diptych.models.formats.weights import Weights, read_weights
from diptych.models.towers.clip import Clip
from diptych.models.towers.config import ACTIVATIONS, Activation, ClipConfig

CONVERSION = "conversion"  # the kind of manifest that `diptych convert` leaves
# In the order of transformers, which takes the first only where it holds an `image_processor`.
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
SHOWN = 6  # names in a message
SHOWN_CHARACTERS = 80  # of a name in a message
NO_FILE = Path("config=")  # where a configuration that was passed comes from, in messages
SUPPORTED = "a CLIP (vision Transformer or ModifiedResNet), SigLIP, or SigLIP 2 of a fixed resolution"

MODULES, MODULES_BYTES = "modules.json", 2**20
CLIPS = ("CLIPModel", "Transformer")  # the second reads any model of transformers: its config.json decides
HARMLESS = ("Normalize",)  # stages behind the towers that leave unit embeddings as they are

_NEEDS_CONFIG = ("text_model.", "visual.trunk.", "text.transformer.embeddings")
_CLASSES: dict[str, Activation] = {"QuickGELU": "quick_gelu", "GELU": "gelu"}

ConfigSource = str | Path | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model's files hold.

    Attributes:
        format: "open_clip", "transformers" or "openai".
        config: without the ids of tokens that only the tokenizer tells.
        weights: tensors as the files name them.
        where: the file for messages.
        folder: where a tokenizer may lie; None for a lone file.
        preprocess: None where no file states it.
        cleaning: of SigLIP's texts, where the configuration says it.
    """

    format: str
    config: ClipConfig
    weights: Weights
    where: Path
    files: tuple[Path, ...]
    folder: Path | None
    preprocess: Preprocess | None
    cleaning: Cleaning | None = None

    def tensors(self, clip: Clip) -> dict[str, Tensor]:
        """Return the tensors of towers, under their names, in float32.

        The vocabulary of `clip` may be smaller than that of the files: rows that no token has are left out.
        """
        ours, words = clip.state_dict(), "text.token_embedding.weight"
        rows, theirs = LAYOUTS[self.format](clip.config, ours), weights_only(self.weights.tensors)
        name = next(row.theirs for row in rows if row.ours == words)
        if name in theirs and theirs[name].shape[:1] == (self.config.text.vocab_size,):
            theirs[name] = theirs[name][: clip.config.text.vocab_size]
        fix = "give the configuration that belongs to these weights, and weights of a CLIP alone"
        require_fit(theirs, write_rows(rows, ours), _form, config=clip.config, where=self.where, fix=fix)
        return read_rows(rows, theirs)


def _form(name: str, tensor: Tensor) -> str:
    shape = [] if name in SCALARS and tensor.numel() == 1 else list(tensor.shape)
    return f"{shape}" if tensor.is_floating_point() else f"{shape} of {tensor.dtype}"


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


def read_parts(path: Path, activation: Activation | None, config: ConfigSource | None = None) -> Parts:
    """Read a folder, weights file or index that is not a checkpoint of ours.

    Args:
        path: of the folder or file.
        activation: what the caller says; needed for weights alone, else it must agree.
        config: of weights that lie alone: open_clip's or transformers' JSON file, or its content.

    Raises:
        UsageError: nothing here is a model, or the activation or configuration must be passed.
        IntegrityError: a file is damaged or does not fit the others.
    """
    folder, file = (clip_folder(path), None) if path.is_dir() else (path.parent, path)
    if file is not None and is_ours(folder):
        fix = f"load the folder {folder}"
        raise UsageError("this is a part of a checkpoint of diptych", where=file, fix=fix)
    beside = [folder / name for name in (OPEN_CLIP_CONFIG, CONFIG) if (folder / name).is_file()]
    if beside and config is not None:
        fix = "leave config= out, or move the weights"
        raise UsageError("a configuration lies beside the weights", where=beside[0], fix=fix)
    source = beside[0] if beside else config
    if source is None:
        return _alone(folder if file is None else None, file or _weights_in(folder, ()), activation)
    where = NO_FILE if isinstance(source, Mapping) else Path(source)
    document = source if isinstance(source, Mapping) else read_json(where)
    if where.name == OPEN_CLIP_CONFIG or document.keys() & {"model_cfg", "vision_cfg"}:
        parts = _open_clip(document, where, file or _weights_in(folder, (*OPEN_CLIP_WEIGHTS, *WEIGHTS)))
    else:
        parts = _transformers(document, where, file or _weights_in(folder, WEIGHTS))
    if activation not in (None, parts.config.activation):
        raise other_activation("the files state", parts.where, activation, parts.config.activation)
    return parts


def clip_folder(folder: Path) -> Path:
    """Return the folder of the CLIP in a folder of sentence-transformers, where each stage has its own.

    Any other folder is returned as it is. Source: sentence-transformers 6.2 `save_pretrained`.
    """
    path = folder / MODULES
    if not path.is_file():
        return folder
    try:
        with path.open("rb") as file:
            rows: Any = json.loads(file.read(MODULES_BYTES))
    except (ValueError, RecursionError) as error:
        raise _malformed(path, type(error).__name__, "JSON") from error
    rows = rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else [{}]
    texts = [text for row in rows for text in (row.get("type"), row.get("path", ""))]
    if any(not isinstance(text, str) or "\0" in text for text in texts):
        raise _malformed(path, "other entries", "a list of stages with type and path")
    kinds = [row["type"].rpartition(".")[2] for row in rows]
    if not kinds or kinds[0] not in CLIPS or any(kind not in HARMLESS for kind in kinds[1:]):
        what = "diptych reads of sentence-transformers' models CLIPs alone"
        found = ", ".join(kind[:40] for kind in kinds[:SHOWN]) or "no stage"
        expected = f"{CLIPS[0]}, with nothing behind it but {' or '.join(HARMLESS)}"
        fix = "load it with sentence_transformers.SentenceTransformer"
        raise UnsupportedError(what, where=path, found=found, expected=expected, fix=fix)
    inside: Path = (folder / rows[0].get("path", "")).resolve()
    if not inside.is_relative_to(folder.resolve()):
        raise _malformed(path, "a path that leads out of the folder", "a folder beside modules.json")
    return inside


def _open_clip(document: Mapping[str, Any], path: Path, weights: Path) -> Parts:
    # What open_clip trains with (`model_configs/*.json`) is the model's table alone: it states no transform.
    alone = "vision_cfg" in document
    model_cfg = document if alone else document.get("model_cfg")
    preprocess_cfg = document.get("preprocess_cfg") or {}
    if not isinstance(model_cfg, Mapping) or not isinstance(preprocess_cfg, Mapping):
        raise _malformed(path, "no model_cfg", "tables model_cfg and preprocess_cfg")
    family = open_clip_family(model_cfg)
    if family not in ALLOWED:
        raise _unsupported(path, "open_clip", family)
    with _refusals(path, "open_clip", "the configuration of a CLIP"):
        cleaning = stated_cleaning(model_cfg, (path if path.is_file() else weights).parent)
    read = partial(from_open_clip, model_cfg)
    processor = None if alone else (path, preprocess_cfg)
    return _described("open_clip", path, weights, read, preprocess_from_open_clip, processor, cleaning)


def _transformers(document: Mapping[str, Any], path: Path, weights: Path) -> Parts:
    family = document.get("model_type")
    if not isinstance(family, str | None):
        raise _malformed(path, f"model_type of type {type(family).__name__}", " or ".join(FAMILIES))
    if family not in FAMILIES:
        kind = f"model_type {family[:SHOWN_CHARACTERS]!r}" if family else "no model_type"
        raise _unsupported(path, "transformers", kind)
    read_preprocess = partial(preprocess_from_transformers, family=family)
    processor = _processor(path.parent) if path.is_file() else None
    return _described(
        "transformers", path, weights, lambda _: from_transformers(document), read_preprocess, processor
    )


def _described(
    library: str,
    path: Path,
    weights: Path,
    read: Callable[[Mapping[str, Tensor]], ClipConfig],
    read_preprocess: Callable[[Mapping[str, Any], tuple[int, int]], Preprocess],
    processor: tuple[Path, Mapping[str, Any]] | None,
    cleaning: Cleaning | None = None,
) -> Parts:
    """Read weights that a configuration describes; `processor`: file and content of the preprocessing."""
    loaded, preprocess = read_weights(weights), None
    with _refusals(path, library, "the configuration of a CLIP"):
        config = read(loaded.tensors)
    stated = _stated_activation(loaded)
    if stated not in (None, config.activation):
        what = "the archive states another activation than its configuration"
        fix = "give the configuration that belongs to these weights"
        raise UsageError(what, where=path, found=config.activation, expected=stated, fix=fix)
    if processor is not None:
        with _refusals(processor[0], library, "a preprocessing that this package has"):
            preprocess = read_preprocess(processor[1], config.vision.image_size)
    described = [file for file in (path, *(processor or ())[:1]) if file.is_file()]
    folder = path.parent if path.is_file() else None
    files = tuple(dict.fromkeys((*described, *loaded.files)))
    return Parts(library, config, loaded, weights, files, folder, preprocess, cleaning)


def _alone(folder: Path | None, weights: Path, activation: Activation | None) -> Parts:
    """Read weights in OpenAI's layout that no configuration describes."""
    loaded = read_weights(weights)
    if any(name.startswith(_NEEDS_CONFIG) for name in loaded.tensors):
        what, expected = (
            "these weights need the configuration that belongs to them",
            f"{CONFIG} or {OPEN_CLIP_CONFIG}",
        )
        fix = "put the configuration beside the weights and load the folder"
        raise UsageError(what, where=weights, expected=expected, fix=fix)
    activation = _activation(loaded, activation, weights)
    # `clip.load` has one transform and heads of one width for all files of this form, so the form tells both.
    quick = activation == "quick_gelu" and bool(loaded.modules)
    head_width = HEAD_WIDTH if quick and loaded.tensors.keys() >= set(ARCHIVE_NUMBERS) else None
    try:
        config = infer_openai(loaded.tensors, activation=activation, head_width=head_width)
    except (DataError, UnsupportedError) as error:
        error.where = str(weights)
        raise
    except (ValueError, IndexError, SettingsError) as error:
        raise _malformed(weights, str(error), "the shapes of a CLIP in OpenAI's layout") from error
    preprocess = Preprocess(size=config.vision.image_size) if head_width else None
    return Parts("openai", config, loaded, weights, loaded.files, folder, preprocess)


def _stated_activation(loaded: Weights) -> Activation | None:
    """Return the activation that an archive states by the class of its modules; None: nothing states it."""
    names = {name for path, name in loaded.modules.items() if path.endswith(".mlp.gelu")}
    return _CLASSES.get(names.pop()) if len(names) == 1 else None


def _activation(loaded: Weights, given: Activation | None, weights: Path) -> Activation:
    stated = _stated_activation(loaded)
    if stated is not None and given not in (None, stated):
        raise other_activation("the archive states", weights, given, stated)
    activation = stated or given
    if activation is None:
        raise UsageError(
            "weights alone do not tell their activation, and the wrong one costs accuracy without an error",
            where=weights,
            expected=f"activation= one of {', '.join(ACTIVATIONS)}",
            fix='pass activation="quick_gelu" for OpenAI\'s, MetaCLIP\'s and DFN\'s weights, "gelu" for '
            "LAION-2B's and DataComp's; the table of public names has all",
        )
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", str(activation), ACTIVATIONS, where=weights)
    return activation


def _processor(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the file that tells how images are prepared, and its content."""
    nested, flat = (folder / name for name in PROCESSORS)
    document = read_json(nested) if nested.is_file() else {}
    if document.get("image_processor") is not None:
        return nested, document
    return (flat, read_json(flat)) if flat.is_file() else None


def _weights_in(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the weights of a folder: the first of the usual names, else the only file that can be."""
    usual = next((folder / name for name in names if (folder / name).is_file()), None)
    if usual is not None:
        return usual
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    others = [path for path in files if path.suffix in WEIGHTS_SUFFIXES and is_data(path.name)]
    if len(others) == 1:
        return others[0]
    found = ", ".join(path.name for path in others[:SHOWN]) or "no weights"
    expected = f"a checkpoint of diptych, {OPEN_CLIP_CONFIG} or {CONFIG} with weights, or one weights file"
    fix = "give the weights file itself" if others else "check the path"
    raise UsageError("there is no model here", where=folder, found=found, expected=expected, fix=fix)


@contextmanager
def _refusals(path: Path, library: str, expected: str) -> Iterator[None]:
    """Turn what a translation refuses into errors that name the file: of another kind, or damaged."""
    try:
        yield
    except (UnsupportedError, UnknownNameError) as error:
        raise _unsupported(path, library, f"{error.where}: {error.found or error.what}") from error
    except (DiptychError, OverflowError, ValueError) as error:
        raise _malformed(path, str(error), expected) from error


def _malformed(path: Path, found: str, expected: str) -> IntegrityError:
    what = "the file does not describe a model that can be read"
    fix = "restore the file that was published with these weights"
    return IntegrityError(what, where=path, found=found, expected=expected, fix=fix)


def _unsupported(path: Path, library: str, found: str) -> UnsupportedError:
    what, fix = "diptych does not have this kind of model", f"load it with {library}, which reads these files"
    return UnsupportedError(what, where=path, found=found, expected=SUPPORTED, fix=fix)


def other_activation(who: str, where: Path, given: object, expected: object) -> UsageError:
    """Build the error for an activation that was passed and contradicts the files."""
    what = f"{who} another activation than the one passed"
    return UsageError(what, where=where, found=given, expected=expected, fix="leave activation= out")
