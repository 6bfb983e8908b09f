"""Files of results: what was measured, on what, with what, and what was expected; those of other libraries.

Writes: `NAME.json` (for people and programs) and, before it, `NAME.npz` (the answer for each image, which
another model's are compared with); `clip_benchmark/NAME_PROTOCOL.json`; `mteb/TASK.json`, for what is a task
of MTEB's.
Source: Radford et al. 2021, tables 11, 13 and 16 through `tasks.toml`.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError
from diptych.core.files.durable import sha256_file, write_bytes, write_json
from diptych.core.files.reading import read_json
from diptych.core.manifest import created_by
from diptych.core.records import Metric
from diptych.evaluate.suite.plan import OpenedTask
from diptych.evaluate.suite.scoring import ProtocolResult, TaskLabels, TaskRunner
from diptych.evaluate.tasks.registry import TaskRow

Format = Literal["diptych", "clip_benchmark", "mteb"]

RENAMED_PROTOCOLS = {"kshot": "few_shot", "choice": "caption_choice"}  # names in the results of version 0.1

# A published number is met if it is inside the interval, or this near: half a point, for rounding and for
# images that other libraries decode differently.
TOLERANCE = 0.005

_CLIP_BENCHMARK_TASKS = {
    "zeroshot": "zeroshot_classification",
    "probe": "linear_probe",
    "few_shot": "linear_probe",
    "retrieval": "zeroshot_retrieval",
    "caption_choice": "image_caption_selection",
}
# Where two of ours have one name, the later one is theirs: every caption is a query of its own.
_CLIP_BENCHMARK_METRICS = {
    "top1": "acc1",
    "top5": "acc5",
    "mean_per_class": "mean_per_class_recall",
    "text_to_image_recall": "image_retrieval_recall",
    "image_to_text_recall": "text_retrieval_recall",
    "caption_to_image_recall": "image_retrieval_recall",
    "image_to_caption_recall": "text_retrieval_recall",
}


def _plain(metric: Metric) -> dict[str, Any]:
    return {name: value for name, value in metric.as_dict().items() if name != "task"}


def record(
    runner: TaskRunner, made: Mapping[str, ProtocolResult], *, model: Mapping[str, str], answers_digest: str
) -> dict[str, Any]:
    """Put together what a task's file says: results by protocol, the model's names and digest."""
    task, embedded, counts = runner.task, runner.embedded, runner.embedded.counts.as_dict()
    return {
        "task": task.spec.name,
        "title": task.title,
        "kind": task.kind,
        "metric": task.metric,
        "protocols": {
            name: {
                **_plain(result.metric),
                "metrics": [_plain(metric) for metric in result.metrics],
                "slices": [_plain(metric) for metric in result.slices],
                **result.extra,
            }
            for name, result in made.items()
        },
        "not_run": dict(task.not_run),
        "expected": expectations(task.row, made, model.get("public", "")),
        "class_names": list(runner.labels.class_names),
        "items": {
            "pictures": len(embedded.keys),
            "stated": task.row.items.get(task.spec.split) if task.row is not None else None,
            # The source's own drops are in the reasons as well; rows that are NaN could not be decoded.
            "unreadable": int(np.isnan(embedded.image_embeds[:, 0]).sum()),
            "unlabelled": runner.labels.unlabelled,
            "reasons": counts["dropped"],
            "examples": counts["examples"],
        },
        "model": dict(model),
        "data": runner.digest,
        "asked": task.spec.digest,
        "settings": {"images": runner.model.preprocess.reading_name, "precision": runner.settings.precision},
        "answers_sha256": answers_digest,
        "code": created_by(),
    }


def expectations(
    row: TaskRow | None, made: Mapping[str, ProtocolResult], public: str
) -> list[dict[str, Any]]:
    """Compare results with what is published of a known model, in [0, 1]."""
    if row is None or not public:
        return []
    compared: list[dict[str, Any]] = []

    def compare(protocol: str, name: str, percent: float | None, metric: Metric) -> None:
        if percent is not None:
            value, (low, high) = percent / 100, metric.ci95 or (metric.value, metric.value)
            passed = bool(low <= value <= high or abs(value - metric.value) <= TOLERANCE)
            entry = {"protocol": protocol, "metric": name, "value": round(value, 6), "found": metric.value}
            compared.append({**entry, "passed": passed, "source": "Radford et al. 2021"})

    for protocol, percent in (("zeroshot", row.published(public)), ("probe", row.probe.get(public))):
        if protocol in made:
            compare(protocol, row.metric, percent, made[protocol].metric)
    if "retrieval" in made:
        metrics = {metric.metric: metric for metric in made["retrieval"].metrics}
        for caption, names, table in (
            ("caption_to_image_recall@1", "text_to_image_recall@1", row.expected),
            ("image_to_caption_recall@1", "image_to_text_recall@1", row.expected_text),
        ):
            name = caption if caption in metrics else names  # the paper's way where it is another
            compare("retrieval", name, table.get(public), metrics[name])
    return compared


def write_answers(path: Path, labels: TaskLabels, made: Mapping[str, ProtocolResult]) -> str:
    """Write the answer for each image and return the file's digest."""
    arrays: dict[str, NDArray[Any]] = {"rows": labels.rows}
    if labels.class_names:
        arrays["labels"] = labels.class_ids
    if labels.label_matrix is not None:
        arrays["marks"] = labels.label_matrix.astype(np.int8)
    for protocol, result in made.items():
        arrays |= {f"{protocol}_{name}": values for name, values in result.arrays.items()}
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
        what, expected = (
            "the answers of a task are not what was written",
            f"sha256 {result['answers_sha256']}",
        )
        fix = f"remove {path.with_suffix('.json').name} beside it and go on with --resume"
        raise IntegrityError(what, where=path, expected=expected, fix=fix)
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for old, new in RENAMED_PROTOCOLS.items():
        if f"{old}_hits" in arrays:
            arrays[f"{new}_hits"] = arrays.pop(f"{old}_hits")
    return arrays


def read_result(path: Path) -> dict[str, Any]:
    """Read a task's file; protocols have the names of today."""
    result = read_json(path)
    for key in ("protocols", "not_run"):
        if isinstance(named := result.get(key), dict):
            result[key] = {RENAMED_PROTOCOLS.get(name, name): value for name, value in named.items()}
    return result


def write_formats(
    folder: Path, results: Sequence[Mapping[str, Any]], tasks: Sequence[OpenedTask], form: Format
) -> list[str]:
    """Write results as another library does, into a folder of that library's name; "diptych" writes nothing.

    Returns a line for each result of which the library knows no task, and why.
    """
    left_out: list[str] = []
    for result, task in zip(results, tasks, strict=True):
        if form == "clip_benchmark":
            for protocol in result["protocols"]:
                path = folder / form / f"{result['task']}_{protocol}.json"
                write_json(path, as_clip_benchmark(result, protocol))
        elif form == "mteb":
            if reason := _why_not_mteb(result, task):
                left_out.append(f"{result['task']}: no file for mteb: {reason}")
            else:
                theirs = as_mteb(result, task)
                write_json(folder / form / f"{theirs['task_name']}.json", theirs)
    return left_out


def _by_name(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {metric["metric"]: metric["value"] for metric in (entry, *entry["metrics"])}


def as_clip_benchmark(result: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Return a result as CLIP_benchmark's `eval` writes it; its image retrieval is our text to image."""
    metrics = {}
    for name, value in _by_name(result["protocols"][protocol]).items():
        stem, at, k = name.partition("@")
        metrics[_CLIP_BENCHMARK_METRICS.get(stem, stem) + at + k] = value
    if len(result["class_names"]) < 5 and "acc5" in metrics:
        metrics["acc5"] = None  # they have none of fewer than five classes
    if _CLIP_BENCHMARK_TASKS[protocol] == "linear_probe":
        metrics = {f"lp_{name}": value for name, value in metrics.items()}
    model, _, pretrained = (result["model"].get("public") or result["model"]["name"]).partition("/")
    return {
        "dataset": result["task"],
        "model": model,
        "pretrained": pretrained,
        "task": _CLIP_BENCHMARK_TASKS[protocol],
        "metrics": metrics,
        "language": "en",
    }


def _why_not_mteb(result: Mapping[str, Any], task: OpenedTask) -> str:
    mteb = task.row.mteb if task.row is not None else None
    if mteb is None:
        return "it has no zero-shot task of this data set"
    if "zeroshot" not in result["protocols"]:
        return f"{mteb.name} is zero-shot classification"
    count = result["items"]["pictures"]
    return "" if count == mteb.items else f"{mteb.name} has {mteb.items} images, these are {count}"


def as_mteb(result: Mapping[str, Any], task: OpenedTask) -> dict[str, Any]:
    """Return a zero-shot result as MTEB's `TaskResult`: its task, split and main score, the accuracy."""
    assert task.row is not None and task.row.mteb is not None
    mteb, top1 = task.row.mteb, _by_name(result["protocols"]["zeroshot"])["top1"]
    scores = {
        "hf_subset": "default",
        "languages": ["eng-Latn"],
        "main_score": top1,
        "accuracy": top1,
        "created_by": result["code"],
    }
    return {
        "dataset_revision": result["data"],
        "task_name": mteb.name,
        "mteb_version": None,
        "scores": {mteb.split: [scores]},
        "evaluation_time": None,
        "kg_co2_emissions": None,
    }
