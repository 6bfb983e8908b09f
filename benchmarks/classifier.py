"""A zero-shot classifier of 1,000 classes x 80 templates, beside open_clip's `build_zero_shot_classifier`.

    python benchmarks/classifier.py --peer-python PEERS/bin/python [--data FOLDER]
        [--preset ViT-B-32] [--classes 1000] [--peer-classes 20] [--rounds 3] [--quick] [--json FILE]

Ours (float32, bfloat16) builds all classes; open_clip (float32, and under bfloat16 autocast) builds the
first `--peer-classes`, ten at a time as it does by default, and its time is scaled: every prompt costs it the
same 77 tokens. All have the same random weights, class names and templates, are processes of their own and
take turns; medians of the rounds and of the rounds' ratios are reported. Times include tokenizing; ours also
the plan of what is shared. Nothing is read from a cache of finished classifiers.

Equality is measured on the classes that both built: the largest difference of any number from open_clip's
float32 (both of unit length), and the smallest cosine. Random weights put all texts near one direction, so
the cosine after the mean of all classes is taken away is reported too: it is the stricter one.

Reads: the vocabulary of `inputs.py`. Writes: JSON to standard output, and to the file of --json.
The peers' interpreter (DIPTYCH_PEERS_PYTHON) needs open_clip 3.3; without it only ours is measured.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contest import (
    Contestant,
    Rows,
    answer_questions,
    machine,
    missing,
    options_of,
    ratio,
    skip,
    write_result,
)  # fmt: skip
from inference import write_model
from inputs import add_data

PEER = Path(__file__).with_name("classifier_peer.py")
BASE = "open_clip float32"
PEERS = (BASE, "open_clip bfloat16")
OURS = ("diptych float32", "diptych bfloat16")
CLOCKS = ("seconds", "cpu_seconds")


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Write weights in both forms, class names and templates."""
    from diptych.evaluate.prompts.sets import prompt_set

    write_model(options, folder)
    prompts = prompt_set("imagenet")
    words = {
        "classes": [names[0] for names in prompts.class_names[: options.classes]],
        "templates": prompts.templates,
    }
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")


class Ours:
    """One of our contestants."""

    def build(self, *, name: str, folder: str, classes: int) -> dict[str, Any]:
        """Open the model and the words; return the facts about them."""
        from diptych.evaluate.prompts.templates import Templates
        from diptych.models.checkpoint import load

        words = json.loads((Path(folder) / "words.json").read_text(encoding="utf-8"))
        self.names, self.templates = words["classes"][:classes], Templates("bench", tuple(words["templates"]))
        self.model, self.precision = load(Path(folder) / "checkpoint"), name.split()[1]
        return {"classes": len(self.names), "versions": {key: version(key) for key in ("diptych", "torch")}}

    def run(self, *, keep: int) -> dict[str, Any]:
        """Build the classifier; return the time, and the rows of the first classes."""
        from diptych.evaluate.classifier import build_classifier

        begin, begin_cpu = time.perf_counter(), time.process_time()
        rows = build_classifier(self.model, self.names, self.templates, precision=self.precision)
        spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
        return {**spent, "rows": rows[:keep].astype(float).tolist()}


def equality(ours: Any, theirs: Any) -> dict[str, float]:
    """Compare the rows of two classifiers."""
    import numpy as np

    mine, others = np.array(ours), np.array(theirs)
    centered = [rows - others.mean(axis=0) for rows in (mine, others)]
    lengths = [np.linalg.norm(rows, axis=1) for rows in centered]
    cosines = (centered[0] * centered[1]).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-30)
    return {
        "largest_difference": float(np.abs(mine - others).max()),
        "cosine_min": float((mine * others).sum(axis=1).min()),
        "centered_cosine_min": float(cosines.min()),
    }


def compare(commands: dict[str, list[str]], folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all contestants in alternating rounds."""
    contestants = {name: Contestant(command) for name, command in commands.items()}
    rows: dict[str, Any] = {}
    for name, contestant in contestants.items():
        count = options.peer_classes if name in PEERS else options.classes
        rows[name] = contestant.ask(do="build", name=name, folder=folder, classes=count)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    shown = Rows(options.rounds * len(contestants))
    for _ in range(options.rounds):
        for name, contestant in contestants.items():
            found[name].append(contestant.ask(do="run", keep=options.peer_classes))
            shown.show(name, f"{found[name][-1]['seconds']:.2f} s for {rows[name]['classes']} classes")
    for contestant in contestants.values():
        contestant.close()
    whole = {
        name: {
            clock: [one[clock] * options.classes / rows[name]["classes"] for one in each] for clock in CLOCKS
        }
        for name, each in found.items()
    }
    for name, row in rows.items():
        row["seconds_for_all"] = round(statistics.median(whole[name]["seconds"]), 2)
        row["rounds_seconds_measured"] = [round(one["seconds"], 2) for one in found[name]]
        if BASE in rows and name != BASE:
            row["faster_than_open_clip_by"] = ratio(whole[BASE]["seconds"], whole[name]["seconds"])
            row["faster_by_cpu_time"] = ratio(whole[BASE]["cpu_seconds"], whole[name]["cpu_seconds"])
            row |= equality(found[name][0]["rows"], found[BASE][0]["rows"])
    return rows


def main() -> None:
    """Run the comparison and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--preset", default="ViT-B-32")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--peer-classes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file to write besides standard output")
    parser.add_argument("--contestant", action="store_true", help=argparse.SUPPRESS)
    options = options_of(parser, classes=10, peer_classes=1, rounds=1)
    if options.contestant:
        ours = Ours()
        answer_questions({"build": ours.build, "run": ours.run})
        return
    commands = {name: [sys.executable, __file__, "--contestant"] for name in OURS}
    if reason := missing(options.peer_python, "open_clip"):
        skipped = skip("open_clip", reason)
    else:
        skipped = {}
        commands = {name: [options.peer_python, str(PEER)] for name in PEERS} | commands
    with tempfile.TemporaryDirectory() as folder:
        prepare(options, Path(folder))
        found = compare(commands, folder, options)
    facts = {name: getattr(options, name) for name in ("preset", "classes", "peer_classes", "rounds")}
    write_result(
        {"benchmark": "classifier", **facts, "machine": machine(), "skipped": skipped, "contestants": found},
        options.json,
    )


if __name__ == "__main__":
    main()
