"""One JSON per task: what was measured, on what, with what, and what was expected.

Writes: `NAME.json` (for people and programs) and, before it, `NAME.npz` (the answer for each picture, which
another model's are compared with).
Source: Radford et al. 2021, tables 11, 13 and 16 through `tasks.toml`.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError
from diptych.core.files.durable import sha256_file, write_bytes
from diptych.core.files.json_objects import read_json
from diptych.core.manifest import created_by
from diptych.core.records import Metric
from diptych.evaluate.suite.protocols import Answers, TaskRunner
from diptych.evaluate.tasks.registry import TaskRow

RENAMED_PROTOCOLS = {"kshot": "few_shot", "choice": "caption_choice"}
"""Names in the results of version 0.1."""

TOLERANCE = 0.005
"""A published number is met if it is inside the interval, or this near: half a point, for rounding and for
images that other libraries decode differently."""


def plain(metric: Metric) -> dict[str, Any]:
    """Return a metric without its task."""
    told = metric.as_dict()
    del told["task"]
    return told


def record(
    runner: TaskRunner, answers: Mapping[str, Answers], *, model: Mapping[str, str], arrays_digest: str
) -> dict[str, Any]:
    """Put together what a task's file says.

    Args:
        runner: the model and the task.
        answers: by protocol.
        model: name and digest, and the public name if it is known.
        arrays_digest: SHA-256 of the file with the answer for each image.
    """
    opened, embedded, task_labels = runner.opened, runner.embedded, runner.task_labels
    # The source's own drops come first; rows that are NaN are the images that could not be decoded.
    unreadable = int(np.isnan(embedded.image_embeds[:, 0]).sum())
    stated = opened.row.items.get(opened.spec.split) if opened.row is not None else None
    return {
        "task": opened.spec.name,
        "title": opened.title,
        "kind": opened.kind,
        "metric": opened.metric,
        "protocols": {
            name: {
                **plain(found.metric),
                "metrics": [plain(metric) for metric in found.metrics],
                "slices": [plain(metric) for metric in found.slices],
                **found.extra,
            }
            for name, found in answers.items()
        },
        "not_run": dict(opened.missing),
        "expected": expectations(opened.row, answers, model.get("public", "")),
        "class_names": list(task_labels.class_names) if task_labels is not None else [],
        "items": {
            "pictures": len(embedded.keys),
            "stated": stated,
            "unreadable": unreadable,
            "unlabelled": task_labels.unlabelled if task_labels is not None else 0,
            "reasons": embedded.counts.as_dict()["dropped"],
            "examples": embedded.counts.as_dict()["examples"],
        },
        "model": dict(model),
        "data": runner.digest,
        "asked": opened.spec.digest,
        "settings": {"preprocessing": runner.settings.preprocessing, "precision": runner.settings.precision},
        "answers_sha256": arrays_digest,
        "code": created_by(),
    }


def expectations(row: TaskRow | None, answers: Mapping[str, Answers], public: str) -> list[dict[str, Any]]:
    """Hold what was found against what is published of a known model, in [0, 1]."""
    if row is None or not public:
        return []
    wanted: list[tuple[str, str, float | None, Metric | None]] = []
    if "zeroshot" in answers:
        wanted.append(("zeroshot", row.metric, row.published(public), answers["zeroshot"].metric))
    if "probe" in answers:
        wanted.append(("probe", row.metric, row.probe.get(public), answers["probe"].metric))
    if "retrieval" in answers:
        named = {metric.metric: metric for metric in answers["retrieval"].metrics}
        for names, table in (
            (("caption_to_image_recall@1", "text_to_image_recall@1"), row.expected),
            (("image_to_caption_recall@1", "image_to_text_recall@1"), row.expected_text),
        ):
            name = next(name for name in names if name in named)  # the paper's way where it is another
            wanted.append(("retrieval", name, table.get(public), named[name]))
    return [
        _held_against(protocol, name, percent / 100, metric)
        for protocol, name, percent, metric in wanted
        if percent is not None and metric is not None
    ]


def _held_against(protocol: str, name: str, value: float, metric: Metric) -> dict[str, Any]:
    low, high = metric.ci95 or (metric.value, metric.value)
    met = low <= value <= high or abs(value - metric.value) <= TOLERANCE
    return {
        "protocol": protocol,
        "metric": name,
        "value": round(value, 6),
        "found": metric.value,
        "passed": bool(met),
        "source": "Radford et al. 2021",
    }


def write_answers(path: Path, runner: TaskRunner, answers: Mapping[str, Answers]) -> str:
    """Write the answer for each image and return the file's digest."""
    rows = runner.task_labels.rows if runner.task_labels is not None else np.arange(len(runner.embedded.keys))
    arrays: dict[str, NDArray[Any]] = {"rows": rows}
    if runner.task_labels is not None:
        arrays["labels"] = runner.task_labels.class_ids
        if runner.task_labels.marks is not None:
            arrays["marks"] = runner.task_labels.marks.astype(np.int8)
    for protocol, found in answers.items():
        arrays |= {f"{protocol}_{name}": values for name, values in found.arrays.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
    return sha256_file(path)


def read_answers(path: Path, result: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Read the answer for each image.

    Raises:
        IntegrityError: the file is missing, or is not the one that the result was written with.
    """
    if not path.is_file() or sha256_file(path) != result["answers_sha256"]:
        raise IntegrityError(
            "the answers of a task are not what was written",
            where=path,
            expected=f"sha256 {result['answers_sha256']}",
            fix=f"remove {path.with_suffix('.json').name} beside it and go on with --resume",
        )
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for old, new in RENAMED_PROTOCOLS.items():
        if f"{old}_hits" in arrays:
            arrays[f"{new}_hits"] = arrays.pop(f"{old}_hits")
    return arrays


def read_result(path: Path) -> dict[str, Any]:
    """Read a task's file; protocols have the names of today.

    Raises:
        SettingsError: it is no JSON.
    """
    result = read_json(path)
    for key in ("protocols", "not_run"):
        if isinstance(named := result.get(key), dict):
            result[key] = {RENAMED_PROTOCOLS.get(name, name): value for name, value in named.items()}
    return result
