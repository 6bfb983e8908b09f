"""Our own folders with each value of their JSON and reference files exchanged: exit code 5, no traceback."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.export.small import small_model

from diptych.core import manifest
from diptych.core.errors import IntegrityError
from diptych.core.manifest import MANIFEST_NAME, file_entry
from diptych.export.onnx import export
from diptych.models import checkpoint
from diptych.models.load import load

CONFIG, REFERENCE_OUTPUTS = "config.json", "reference_outputs.safetensors"
VALUES = (None, -1.5, [], {}, 10**30, "a\0b", "y" * 5000, "/etc/passwd")
CASES = [("checkpoint", value) for value in VALUES] + [("export", value) for value in (-1.5, {}, 10**30, "x")]
HARMLESS = {
    ("model", "logit_scale_init"), ("model", "logit_scale_max"), ("model", "text_activation"),
    ("model", "logit_bias_init"), ("preprocess", "train_resize"), ("preprocess", "train_pad"),
    ("preprocess", "horizontal_flip"), ("parity",), ("captions",), ("provenance",), ("model_digest",),
    ("logit_bias",), ("logit_scale",), ("model", "layer_norm_eps"),
}  # fmt: skip
"""Settings of which some of these values make another model, and no malformed one."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("malformed")
    checkpoint.save(home / "checkpoint", small_model())
    export(small_model(), home / "export")
    return home


def sign(folder: Path, document: dict[str, Any] | None = None) -> None:
    """Write a manifest whose digests fit: they must not be all that helps."""
    body = document or json.loads((folder / MANIFEST_NAME).read_text())
    body.pop("sha256", None)
    for entry in () if document else body["outputs"]:
        actual = file_entry(folder / entry["name"], root=folder)
        entry |= {"bytes": actual.bytes, "sha256": actual.sha256}
    (folder / MANIFEST_NAME).write_text(json.dumps({**body, "sha256": manifest._digest(body)}))


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value of a document; of a list the first."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in pairs:
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*above, key))


def exchanged(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copied = json.loads(json.dumps(document))
    table = copied
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return copied


def refuse(folder: Path, *, may_load: bool = False) -> None:
    try:
        model = load(folder)
    except IntegrityError as error:
        assert len(str(error)) < 4000
    else:
        assert may_load, "a malformed folder was loaded"
        assert 0 < model.scale < float("inf")


@pytest.mark.parametrize(("kind", "value"), CASES, ids=lambda value: str(value)[:12])
def test_every_value_of_a_description(kind: str, value: Any, written: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written / kind, tmp_path / kind))
    document = json.loads((folder / CONFIG).read_text())
    for path in places({**document, "provenance": {}}):
        if exchanged(document, path, value) == document:
            continue
        (folder / CONFIG).write_text(json.dumps(exchanged(document, path, value)))
        sign(folder)
        harmless = any(path[: len(start)] == start for start in HARMLESS)
        refuse(folder, may_load=harmless or (kind == "export" and path[0] == "model"))


@pytest.mark.parametrize(("kind", "value"), CASES, ids=lambda value: str(value)[:12])
def test_every_value_of_a_manifest(kind: str, value: Any, written: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written / kind, tmp_path / kind))
    document = json.loads((folder / MANIFEST_NAME).read_text())
    for path in places({key: document[key] for key in document if key not in ("sha256", "kind")}):
        sign(folder, exchanged(document, path, value))
        message = path[0] in (
            "settings",
            "counts",
            "seed",
            "seconds",
            "extra",
            "created_by",
            "inputs",
            "outputs",
        )
        refuse(folder, may_load=message)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "no rows": lambda tensor: tensor[:0],
    "one row": lambda tensor: tensor[:1],
    "flat": lambda tensor: tensor.reshape(-1),
    "scalar": lambda tensor: torch.tensor(1),
    "deeper": lambda tensor: tensor[None],
    "int8": lambda tensor: tensor.to(torch.int8),
    "float64": lambda tensor: tensor.double(),
    "bfloat16": lambda tensor: tensor.bfloat16(),
}


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_reference_input_and_output(kind: str, change: str, written: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written / kind, tmp_path / kind))
    stored = load_file(written / kind / REFERENCE_OUTPUTS)
    for name, tensor in stored.items():
        save_file({**stored, name: CHANGES[change](tensor).contiguous()}, folder / REFERENCE_OUTPUTS)
        sign(folder)
        refuse(folder, may_load=name.startswith("picture_") and change == "one row")
