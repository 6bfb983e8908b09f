"""Write a model as ONNX files that other runtimes read, with all that belongs to them beside them.

Writes: ``image.onnx`` and ``text.onnx`` (batch, and length of texts, of any size), ``config.json``, the
tokenizer's files, ``reference_outputs.safetensors`` and, last, ``manifest.json``. The folder appears only
after onnxruntime has run both files and they agreed with the model. The weights of a tower of more than 2 GB
(a limit of protobuf) lie beside it in ``image.onnx.data``.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from PIL import Image
from safetensors.numpy import save as save_arrays

from diptych.core.errors import BadSampleError, unknown_name
from diptych.core.files.durable import sha256_file, staging_folder, write_bytes, write_json
from diptych.core.manifest import Manifest, file_entry, write_manifest
from diptych.core.settings import to_mapping
from diptych.data.images.transforms import evaluation_pixels, read_pixels
from diptych.export.graph import FLOAT, INT64, Array, Graph
from diptych.export.quantize import Int8, Observer, observe
from diptych.export.towers import ModuleWeights, clip_text, resnet, siglip_text, siglip_vision, vit
from diptych.export.verify import Probe, compare, probe, require, zero_shot_change
from diptych.models import verification
from diptych.models.runtimes.engines import Plan
from diptych.models.runtimes.exported import (
    FORMAT,
    IMAGE,
    KIND,
    PRECISIONS,
    TEXT,
    ExportDescription,
    ExportedModel,
    ExportPrecision,
)
from diptych.models.tokenizers import vocabulary_file
from diptych.models.towers.numerics import require_float32

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

MAX_FILE_BYTES = 2_000_000_000

# Of the scenes on which ranges of activations are measured: others than those of the comparison.
CALIBRATION_SEED = 7
BATCH = 16  # images a step while ranges are measured

# Writers of towers by the kind in their configuration.
VISION = {"vit": vit, "resnet": resnet, "siglip": siglip_vision}
TEXT_TOWERS = {"clip": clip_text, "siglip": siglip_text}


def export(
    model: "Model",
    folder: str | Path,
    *,
    precision: ExportPrecision = "float32",
    source: "Source | None" = None,
    labels: str = "",
    replace_old: bool = False,
) -> Manifest:
    """Write a model for other runtimes, checked before it appears.

    Args:
        model: the original.
        folder: where; must not exist yet, or be empty, unless `replace_old`.
        precision: of the weights: "float32"; "float16", half the size, computed in float32; "int8", a third
            of the size and faster, at the cosine that config.json states.
        source: images and texts of your own to compare on as well.
        labels: column of the source with class names: zero-shot accuracy is stated too.
        replace_old: swap an existing folder for the new one.

    Returns:
        The manifest as written; `extra` holds what was measured.

    Raises:
        UnknownNameError: no such precision.
        UsageError: the folder is filled.
        MissingPackageError: onnxruntime is not installed.
        IntegrityError: the files do not give what the model gives; nothing is written.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", str(precision), PRECISIONS, where="--precision")
    require_float32(model.clip, "export")
    started = time.monotonic()
    measured_on, compared_on = probe(source, seed=CALIBRATION_SEED, part=0), probe(source, part=1)
    towers = graphs(model, precision, measured_on)
    with staging_folder(folder, replace=replace_old) as staged:
        for name, tower in towers.items():
            _write(tower, staged / name)
        model.tokenizer.save(staged)
        stored = verification.reference_arrays(model)
        write_bytes(staged / verification.REFERENCE_OUTPUTS, save_arrays(stored))
        description = _describe(model, precision, sha256_file(vocabulary_file(staged, model.config.text)))
        exported = ExportedModel(description, model.tokenizer, staged, Plan("onnx"))
        parity = compare(model, exported, stored, compared_on)
        require(parity, precision, where=Path(folder))
        extra: dict[str, Any] = {"parity": parity}
        if source is not None and labels:
            extra["zero_shot"] = zero_shot_change(model, exported, source, labels)
        write_json(staged / verification.CONFIG, to_mapping(replace(description, parity=extra["parity"])))
        manifest = Manifest(
            kind=KIND,
            format=FORMAT,
            settings={"to": "onnx", "precision": precision},
            outputs=tuple(file_entry(path, root=staged) for path in sorted(staged.iterdir())),
            seconds=round(time.monotonic() - started, 3),
            extra=extra,
        )
        write_manifest(staged, manifest)
    return manifest


def graphs(
    model: "Model", precision: ExportPrecision = "float32", inputs: Probe | None = None
) -> dict[str, onnx.ModelProto]:
    """Return both towers as ONNX graphs by file name; int8 measures the ranges of activations on `inputs`."""
    writers = graph_writers(model, precision)
    if precision != "int8":
        return {name: write(Graph(half=precision == "float16")) for name, write in writers.items()}
    result = {}
    batches = _batches(model, inputs or probe(seed=CALIBRATION_SEED))
    for (name, write), given in zip(writers.items(), batches, strict=True):
        observer = Observer()
        observed = write(observer)
        result[name] = write(Int8(observe(observed, observer.observed, given)))
    return result


def graph_writers(
    model: "Model", precision: ExportPrecision
) -> dict[str, Callable[[Graph], onnx.ModelProto]]:
    """Return, by file name, the function that writes a tower into an empty graph."""
    config = model.config
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in model.clip.state_dict().items()}
    facts = {"diptych.model": model.digest, "diptych.precision": precision}
    activations = {"vision": config.activation, "text": config.text_activation or config.activation}

    def write_graph(tower: str, write: Any, shape: Any, given: Any, graph: Graph) -> onnx.ModelProto:
        weights = ModuleWeights(graph, state, f"{tower}.", activations[tower], config.layer_norm_eps)
        features = write(weights, shape, given[0])
        return graph.model(tower, given, (features, "features", ("batch", config.embed_dim)), facts)

    pixels = ("pixels", FLOAT, ("batch", 3, *config.vision.image_size))
    tokens = ("tokens", INT64, ("batch", "length"))
    vision, text = VISION[config.vision.kind], TEXT_TOWERS[config.text.kind]
    return {
        IMAGE: partial(write_graph, "vision", vision, config.vision, pixels),
        TEXT: partial(write_graph, "text", text, config.text, tokens),
    }


def _batches(model: "Model", inputs: Probe) -> tuple[list[Array], list[Array]]:
    images = verification.reference_images(model.preprocess.size)
    for encoded in inputs.images:
        with suppress(BadSampleError):
            images.append(read_pixels(encoded, model.preprocess))
    cut = [evaluation_pixels(Image.fromarray(image), model.preprocess) for image in images]
    texts = model.tokenizer.tokens([*verification.reference_captions(model), *inputs.texts])
    pixels = [
        model.normalize_pixels(torch.from_numpy(np.stack(cut[start : start + BATCH])).permute(0, 3, 1, 2))
        for start in range(0, len(cut), BATCH)
    ]
    return [batch.contiguous().cpu().numpy() for batch in pixels], [texts]


def _write(tower: onnx.ModelProto, path: Path) -> None:
    if sum(len(tensor.raw_data) for tensor in tower.graph.initializer) <= MAX_FILE_BYTES:
        write_bytes(path, tower.SerializeToString())
    else:
        beside = f"{path.name}.data"
        onnx.save_model(tower, path, save_as_external_data=True, location=beside, size_threshold=1024)


def _describe(model: "Model", precision: ExportPrecision, tokenizer_sha256: str) -> ExportDescription:
    bias = model.clip.logit_bias
    return ExportDescription(
        format=FORMAT,
        model=model.config,
        preprocess=model.preprocess,
        tokenizer_sha256=tokenizer_sha256,
        precision=precision,
        logit_scale=float(model.clip.logit_scale.detach()),
        logit_bias=None if bias is None else float(bias.detach()),
        model_digest=model.digest,
        captions=verification.reference_captions(model),
        provenance=model.provenance,
    )
