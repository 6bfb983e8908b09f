"""Put a model of torch together from the files that a reference leads to; see `diptych.models.load`.

What a reference means is looked up, never guessed: the format is read off the files, activation and
preprocessing off the configuration beside the weights. Where the files do not tell, the error says what to
pass. Every tensor is used and none is missing.

Source: open_clip 3.3 `resize_pos_embed` for other image sizes (for SigLIP timm's `resample_abs_pos_embed`):
bicubic, antialiased. transformers' `interpolate_pos_encoding` is bicubic without antialiasing and gives
slightly other positions.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diptych.core.errors import IntegrityError, UsageError
from diptych.core.files.durable import sha256_file
from diptych.core.manifest import MANIFEST_NAME, is_done, read_manifest
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.settings import CONFIG as TOKENIZER_CONFIG
from diptych.data.tokenizers.settings import require_length
from diptych.data.tokenizers.vocabulary import read_object
from diptych.models import checkpoint
from diptych.models.formats.detect import CONVERSION, Parts, is_ours, other_activation, read_parts
from diptych.models.formats.hub import VOCABULARY, Hub, cached_vocabulary, stated_digest
from diptych.models.formats.references import (
    HUB_PREFIX,
    LoadOptions,
    PublicName,
    Reference,
    named_preprocess,
    published_as,
)
from diptych.models.formats.weights import require_finite
from diptych.models.model import Model
from diptych.models.tokenizers import (
    VOCABULARIES,
    AnyTokenizer,
    is_padded,
    open_tokenizer,
    vocabulary_file,
    with_ids,
)
from diptych.models.towers.clip import meta_init
from diptych.models.towers.config import ResNetConfig, VitConfig, check_sizes
from diptych.models.towers.numerics import HeldIn, device_of
from diptych.models.towers.vit import interpolate_positions


def assemble(
    reference: Reference, options: LoadOptions, *, device: str | torch.device, precision: HeldIn, hub: Hub
) -> Model:
    """Load a model of torch; arguments and errors as `diptych.load` describes them."""
    device = device_of(device)  # before gigabytes are read
    path, origin = reference.fetch(hub)
    if is_ours(path):
        model = checkpoint.load(path)
        _refuse_another(path, model, options)
    else:
        parts = read_parts(path, options.get("activation"), options.get("config"))
        model = _from_parts(parts, origin, options, hub)
    if reference.row is not None:
        _check_row(path, reference.row, model)
    size = options.get("image_size")
    if size is not None:
        model = at_image_size(model, size)
    return model.to(device).compute_in(precision)  # the cost of a precision depends on the device


def _from_parts(parts: Parts, origin: dict[str, Any], options: LoadOptions, hub: Hub) -> Model:
    with ThreadPoolExecutor(1) as pool:
        # Digests take as long as everything else together, so they run beside it.
        digests = {path: pool.submit(sha256_file, path) for path in parts.files}
        tokenizer, files = _tokenizer(parts, options.get("tokenizer"), hub)
        digests |= {path: pool.submit(sha256_file, path) for path in files}
        vocabulary = next(iter(files), "tokenizer=")
        clip = meta_init(with_ids(parts.config, tokenizer, file=vocabulary, where=parts.where))
        tensors = parts.tensors(clip)
        require_finite(tensors, parts.where)
        clip.load_state_dict(tensors, assign=True)
        provenance = {"format": parts.format, **origin}
        if parts.weights.taken_from:
            provenance["taken_from"] = parts.weights.taken_from
        if unused := parts.config.text.vocab_size - clip.config.text.vocab_size:
            provenance["unused_vocabulary_rows"] = unused
        model = Model(clip.eval(), tokenizer, _preprocess(parts, options.get("preprocess")), provenance)
        stated: dict[Path, str] = {}
        if parts.folder is not None and is_done(parts.folder, CONVERSION):
            outputs = read_manifest(parts.folder).outputs
            stated = {parts.folder / entry.name: entry.sha256 for entry in outputs}
        entries = [_entry(path, digest, stated.get(path)) for path, digest in digests.items()]
    model.provenance["files"] = entries
    if name := published_as({entry["sha256"] for entry in entries}):
        model.provenance["published_as"] = name
    return model


def _entry(path: Path, digest: "Future[str]", converted: str | None) -> dict[str, Any]:
    sha256 = digest.result()
    for who, stated, fix in (
        ("the hub sent", stated_digest(path), "delete this file from the cache and load again"),
        ("was written", converted, f"convert again, or delete {MANIFEST_NAME} if the change is meant"),
    ):
        if stated not in (None, sha256):
            what = f"the file is not what {who}"
            raise IntegrityError(what, where=path, found=f"sha256 {sha256}", expected=stated, fix=fix)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256}


def _preprocess(parts: Parts, given: Preprocess | str | None) -> Preprocess:
    stated = parts.preprocess
    if isinstance(given, str):
        given = named_preprocess(given, parts.config.vision.image_size)
    transform = stated or given
    if transform is None:
        raise UsageError(
            "nothing here tells how images are prepared for these weights",
            where=parts.where,
            expected="preprocess=",
            fix='pass preprocess="clip" (the paper\'s; most models), "siglip" (squash, 0.5), "half" (0.5; '
            "LAION-2B's ViT-L-14) or a Preprocess",
        )
    if given is not None and _seen(given) != _seen(transform):
        what = "the files state another preprocessing than the one passed"
        fix = "leave preprocess= out, or set it on the model where another one is meant"
        raise UsageError(what, where=parts.where, found=str(given), expected=str(transform), fix=fix)
    return transform


def _seen(preprocess: Preprocess) -> tuple[object, ...]:  # training margins and flips do not count
    size, names = tuple(preprocess.size), ("resize", "interpolation", "mean", "std")
    return size, *(getattr(preprocess, name) for name in names)


def _tokenizer(
    parts: Parts, given: AnyTokenizer | str | Path | None, hub: Hub
) -> tuple[AnyTokenizer, tuple[Path, ...]]:
    text = parts.config.text
    if isinstance(given, AnyTokenizer):
        return given, ()
    path = _vocabulary(parts, given, hub)
    tokenizer = open_tokenizer(path, text, cleaning=parts.cleaning)
    if parts.folder == path and parts.format == "transformers":  # open_clip's length is the tower's
        require_length(read_object(parts.folder / TOKENIZER_CONFIG), text.context_length, parts.folder)
    return tokenizer, (path if path.is_file() else vocabulary_file(path, text),)


def _vocabulary(parts: Parts, given: str | Path | None, hub: Hub) -> Path:
    """Return where the vocabulary is: what was passed, what lies beside the weights, else OpenAI's."""
    if given is not None:
        return Path(given)
    names = VOCABULARIES[parts.config.text.kind]
    if parts.folder is not None and any((parts.folder / name).is_file() for name in names):
        return parts.folder
    published = cached_vocabulary(hub) if is_padded(parts.config.text.vocab_size) else None
    if published is None:
        what, fetch = "no vocabulary lies beside the weights", f"hf download {VOCABULARY} tokenizer.json"
        expected = f"one of {', '.join(names)}, or CLIP's: {VOCABULARY} in the hub's cache"
        fix = f"pass tokenizer= with a folder or file; OpenAI's is fetched by `{fetch}`"
        raise UsageError(what, where=parts.where, expected=expected, fix=fix)
    return published


def _refuse_another(path: Path, model: Model, options: LoadOptions) -> None:
    """Refuse arguments that contradict a checkpoint of ours, which says everything itself."""
    activation = options.get("activation")
    if activation not in (None, model.config.activation):
        raise other_activation("the files state", path, activation, model.config.activation)
    if any(options.get(name) is not None for name in ("config", "tokenizer", "preprocess")):
        what = "a checkpoint of diptych has its own tokenizer, preprocessing and configuration"
        raise UsageError(what, where=path, fix="leave config=, tokenizer= and preprocess= out")


def _check_row(path: Path, row: PublicName, model: Model) -> None:
    stated = named_preprocess(row.preprocess, model.config.vision.image_size)
    checks = [("preprocessing", str(_seen(model.preprocess)), str(_seen(stated)))]
    if row.activation is not None:
        checks.append(("activation", model.config.activation, row.activation))
    for about, actual, expected in checks:
        if actual != expected:
            what = f"the files contradict the table of public names about the {about}"
            fix = f"to load it as the files say: load({HUB_PREFIX + row.repository!r})"
            raise IntegrityError(what, where=path, found=actual, expected=expected, fix=fix)


def at_image_size(model: Model, image_size: int | tuple[int, int]) -> Model:
    """Return a model that reads images of another size; everything else is shared with the given one."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    vision = model.config.vision
    if len(size) != 2 or not all(type(side) is int for side in size):
        found, expected = repr(image_size)[:60], "pixels: (height, width)"
        raise UsageError("this is no image size", where="image_size", found=found, expected=expected)
    if size == tuple(vision.image_size):
        return model
    if isinstance(vision, ResNetConfig):
        what, expected = "positions of a ModifiedResNet are not stretched", f"{vision.image_size}, or a ViT"
        fix = "leave image_size= out"
        raise UsageError(what, where="image_size", found=f"{size}", expected=expected, fix=fix)
    wide = replace(vision, image_size=size)
    config = replace(model.config, vision=wide)
    check_sizes(config)
    state = model.clip.state_dict()
    positions, extra = "vision.positional_embedding", int(isinstance(vision, VitConfig))
    state[positions] = interpolate_positions(state[positions], vision.grid, wide.grid, extra=extra)
    clip = meta_init(config)
    clip.load_state_dict(state, assign=True)
    train = model.preprocess.train_resize
    scaled = None if train is None else round(train * min(size) / min(vision.image_size))
    preprocess = replace(model.preprocess, size=size, train_resize=scaled)
    origin = {**model.provenance, "positions_stretched_from": list(vision.image_size)}
    return Model(clip.eval(), model.tokenizer, preprocess, origin)
