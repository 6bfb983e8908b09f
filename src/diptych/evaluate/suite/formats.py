"""Results in the files of other libraries: CLIP_benchmark's and MTEB's.

Writes: `clip_benchmark/NAME_PROTOCOL.json`; `mteb/TASK.json`, for what is a task of MTEB's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from diptych.core.files.durable import write_json
from diptych.evaluate.suite.plan import Opened

Format = Literal["diptych", "clip_benchmark", "mteb"]

FIVE = 5
_THEIR_TASKS = {
    "zeroshot": "zeroshot_classification",
    "probe": "linear_probe",
    "few_shot": "linear_probe",
    "retrieval": "zeroshot_retrieval",
    "caption_choice": "image_caption_selection",
}
_THEIR_NAMES = {
    "top1": "acc1",
    "top5": "acc5",
    "mean_per_class": "mean_per_class_recall",
    "text_to_image_recall": "image_retrieval_recall",
    "image_to_text_recall": "text_retrieval_recall",
    "caption_to_image_recall": "image_retrieval_recall",
    "image_to_caption_recall": "text_retrieval_recall",
}
"""Where two of ours have one name, the later one is theirs: every caption is a query of its own."""


def write_formats(
    folder: Path, results: Sequence[Mapping[str, Any]], opened: Sequence[Opened], form: Format
) -> list[str]:
    """Write results as another library does, into a folder of that library's name.

    Args:
        folder: of the run.
        results: of the tasks.
        opened: the tasks, as many.
        form: the library; "diptych" writes nothing.

    Returns:
        A line for each result of which the library knows no task, and why.
    """
    left_out: list[str] = []
    for result, task in zip(results, opened, strict=True):
        if form == "clip_benchmark":
            for protocol in result["protocols"]:
                path = folder / form / f"{result['task']}_{protocol}.json"
                write_json(path, as_clip_benchmark(result, protocol))
        elif form == "mteb":
            reason = _why_not_mteb(result, task)
            if reason:
                left_out.append(f"{result['task']}: no file for mteb: {reason}")
            else:
                their = as_mteb(result, task)
                write_json(folder / form / f"{their['task_name']}.json", their)
    return left_out


def as_clip_benchmark(result: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Write a result as CLIP_benchmark's `eval` does; its retrieval of pictures is our text to image."""
    found = result["protocols"][protocol]
    told = {metric["metric"]: metric["value"] for metric in (found, *found["metrics"])}
    names = {name: name.partition("@") for name in told}
    metrics = {_THEIR_NAMES.get(stem, stem) + at + k: told[name] for name, (stem, at, k) in names.items()}
    if len(result["class_names"]) < FIVE and "acc5" in metrics:
        metrics["acc5"] = None  # they have none of fewer than five classes
    if _THEIR_TASKS[protocol] == "linear_probe":
        metrics = {f"lp_{name}": value for name, value in metrics.items()}
    model, _, pretrained = (result["model"].get("public") or result["model"]["name"]).partition("/")
    return {
        "dataset": result["task"],
        "model": model,
        "pretrained": pretrained,
        "task": _THEIR_TASKS[protocol],
        "metrics": metrics,
        "language": "en",
    }


def _why_not_mteb(result: Mapping[str, Any], opened: Opened) -> str:
    mteb = opened.row.mteb if opened.row is not None else None
    if mteb is None:
        return "it has no zero-shot task of this data set"
    if "zeroshot" not in result["protocols"]:
        return f"{mteb.name} is zero-shot classification"
    found = result["items"]["pictures"]
    return "" if found == mteb.items else f"{mteb.name} has {mteb.items} images, these are {found}"


def as_mteb(result: Mapping[str, Any], opened: Opened) -> dict[str, Any]:
    """Write a zero-shot result as MTEB's `TaskResult` does: its task, split and main score, the accuracy."""
    assert opened.row is not None and opened.row.mteb is not None
    mteb, found = opened.row.mteb, result["protocols"]["zeroshot"]
    named = {metric["metric"]: metric["value"] for metric in (found, *found["metrics"])}
    scores = {
        "hf_subset": "default",
        "languages": ["eng-Latn"],
        "main_score": named["top1"],
        "accuracy": named["top1"],
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
