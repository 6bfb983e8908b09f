"""Images and texts embedded a second, and the wait for the first one, beside open_clip: the same weights.

    python benchmarks/inference.py --peer-python PEERS/bin/python [--data FOLDER]
        [--preset ViT-B-32] [--batches 32,1] [--rounds 5] [--starts 5] [--quick] [--json FILE]

Ours in torch (float32, bfloat16) and exported (onnxruntime and OpenVINO; float32, bfloat16, int8), open_clip
in float32 and as it runs under bfloat16 autocast. Every contestant is a process of its own with random
weights read from disk, and they take turns; medians of the rounds and of the rounds' ratios are reported.
Images are photos, normalized in memory; texts are real captions, as the tokenizer pads them: both sides get
(B, 77).

`faster_by_cpu_time` compares the processor time of all threads: on a machine that others use too it says more
than wall time. Cosines are with open_clip's float32 embeddings. A start is a whole process: from its command
to the embedding of one image file ("image"), or of that and a text ("both"), with everything it reads in
the page cache.

Reads: `inputs.py`. Writes: JSON to standard output, and to the file of --json. The peers' interpreter
(DIPTYCH_PEERS_PYTHON) needs open_clip 3.3; what is not installed is skipped with the reason.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contest import (
    Contestant,
    Rows,
    answer_questions,
    machine,
    missing,
    options_of,
    ratio,
    run_child,
    skip,
    write_result,
)  # fmt: skip
from inference_peer import timed
from inputs import add_data, captions, described, photos, vocabulary

if TYPE_CHECKING:
    from diptych.models.model import Model

PEER = Path(__file__).with_name("inference_peer.py")
BASE = "open_clip float32"
PEERS = (BASE, "open_clip bfloat16")
OURS = (
    "torch float32", "torch bfloat16", "onnx float32", "onnx int8", "openvino float32", "openvino bfloat16",
    "openvino int8", "openvino int8 bfloat16",
)  # fmt: skip
"""Runtime, what the file holds, and what else the runtime computes in where that is not float32."""
NEEDS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino"), "torch": ()}
"""Packages of each runtime."""
PICTURES = 32
CAPTIONS = 25_000


def write_model(options: argparse.Namespace, folder: Path) -> "Model":
    """Write random weights as our checkpoint and as open_clip has them; return the model."""
    from safetensors.torch import save_file

    from diptych.core.settings import to_mapping
    from diptych.data.images.transforms import Preprocess
    from diptych.models.checkpoint import save
    from diptych.models.formats.openai import to_openai_state
    from diptych.models.model import Model
    from diptych.models.towers.clip import build
    from diptych.models.towers.presets import preset as named

    config = named(options.preset)
    tokenizer = vocabulary(options, config.text.context_length)
    if tokenizer.vocab_size != config.text.vocab_size:
        config = config.with_tokenizer(
            vocab_size=tokenizer.vocab_size,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            context_length=tokenizer.context_length,
        )
    model = Model(build(config, seed=0).eval(), tokenizer, Preprocess(size=config.vision.image_size))
    save(folder / "checkpoint", model)
    save_file(to_openai_state(model.clip.state_dict()), folder / "open_clip.safetensors")
    (folder / "config.json").write_text(json.dumps(to_mapping(config)), encoding="utf-8")
    return model


def prepare(options: argparse.Namespace, names: list[str], folder: Path) -> dict[str, Any]:
    """Write weights in every form, images and tokens; return what was measured while exporting."""
    import numpy as np
    from PIL import Image

    model = write_model(options, folder)
    parity = {}
    for precision in ("float32", "int8"):
        if any("torch" not in name and (precision == "int8") == ("int8" in name) for name in names):
            from diptych.export.onnx import export

            receipt = export(model, folder / f"onnx-{precision}", precision=precision)
            parity[precision] = receipt.extra["parity"]
    files = photos(options.data, PICTURES)
    (folder / "picture.jpg").write_bytes(files[0])
    pixels = model.preprocess_images(Image.open(io.BytesIO(file)).convert("RGB") for file in files)
    np.save(folder / "pixels.npy", pixels.numpy())
    listed = captions(options.data, CAPTIONS)
    tokens = model.tokenizer.tokens(listed[:: CAPTIONS // PICTURES][:PICTURES])
    np.save(folder / "tokens.npy", tokens)
    lengths = (tokens == model.tokenizer.end_id).argmax(axis=1) + 1
    return {"export_parity": parity, "tokens_a_caption": round(float(lengths.mean()), 2)}


def open_ours(name: str, folder: Path) -> Any:
    """Open one of `OURS`."""
    backend, *precisions = name.split()
    if backend == "torch":
        from diptych.models.checkpoint import load

        return load(folder / "checkpoint").compute_in(precisions[0])
    from diptych.models.runtimes.exported import load_exported

    held = "int8" if "int8" in precisions else "float32"
    computed = "bfloat16" if "bfloat16" in precisions else "float32"
    return load_exported(folder / f"onnx-{held}", backend, precision=computed)


class Ours:
    """One of our contestants."""

    def build(self, *, name: str, folder: str) -> dict[str, Any]:
        """Open the model and the inputs; return the facts about them."""
        import numpy as np

        self.model = open_ours(name, Path(folder))
        self.inputs = {
            "image": np.load(Path(folder) / "pixels.npy"),
            "text": np.load(Path(folder) / "tokens.npy"),
        }
        self.in_torch = name.startswith("torch")
        if self.in_torch:
            import torch

            self.inputs = {kind: torch.from_numpy(array) for kind, array in self.inputs.items()}
        packages = ("diptych", "torch", "onnxruntime", "openvino")
        return {"versions": {package: _version(package) for package in packages}}

    def embed(self, *, kind: str) -> list[list[float]]:
        """Return the unit embeddings of all inputs."""
        rows = getattr(self.model, f"encode_{kind}")(self.inputs[kind], normalize=True)
        return [[float(x) for x in row] for row in rows]

    def run(self, *, kind: str, batch: int, count: int) -> dict[str, float]:
        """Embed a batch some times; return the seconds."""
        encode, given = getattr(self.model, f"encode_{kind}"), self.inputs[kind]
        pieces = [given[start : start + batch] for start in range(0, PICTURES, batch)]
        return timed(encode, pieces, count)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def start(name: str, folder: Path, kind: str) -> None:
    """Embed one image file, or that and a text, as the first thing a process does."""
    from PIL import Image

    model = open_ours(name, folder)
    pixels = model.preprocess_images([Image.open(folder / "picture.jpg")])
    rows = model.encode_image(pixels, normalize=True)
    if kind == "both":
        rows = rows * model.encode_text(model.tokenize(["a photo of a dog"]), normalize=True)
    print(float(rows.sum()))


def compare(
    starts: dict[str, list[str]], folder: Path, kind: str, batch: int, *, rounds: int, round_seconds: float
) -> dict[str, Any]:
    """Measure all contestants on one tower and one size of batch, in alternating rounds."""
    contestants = {name: Contestant(command) for name, command in starts.items()}
    rows: dict[str, dict[str, Any]] = {}
    embeds: dict[str, Any] = {}
    for name, contestant in contestants.items():
        rows[name] = contestant.ask(do="build", name=name, folder=str(folder))
        embeds[name] = contestant.ask(do="embed", kind=kind)
        tried = contestant.ask(do="run", kind=kind, batch=batch, count=1)["seconds"]
        rows[name]["batches_a_round"] = max(1, round(round_seconds / tried))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            count = rows[name]["batches_a_round"]
            spent = contestant.ask(do="run", kind=kind, batch=batch, count=count)
            found[name].append({clock: value / count / batch for clock, value in spent.items()})
    for contestant in contestants.values():
        contestant.close()
    for name, row in rows.items():
        each = {clock: [one[clock] for one in found[name]] for clock in ("seconds", "cpu_seconds")}
        row["per_second"] = round(1 / statistics.median(each["seconds"]), 2)
        row["rounds_per_second"] = [round(1 / one, 2) for one in each["seconds"]]
        row["per_cpu_second"] = round(1 / statistics.median(each["cpu_seconds"]), 2)
        if BASE in rows and name != BASE:
            base = {clock: [one[clock] for one in found[BASE]] for clock in each}
            row["faster_than_open_clip_by"] = ratio(base["seconds"], each["seconds"])
            row["faster_by_cpu_time"] = ratio(base["cpu_seconds"], each["cpu_seconds"])
            row["cosine_min"] = min(
                sum(x * y for x, y in zip(*pair, strict=True))
                for pair in zip(embeds[name], embeds[BASE], strict=True)
            )
    return rows


def starting(commands: dict[str, list[str]], runs: int) -> dict[str, dict[str, Any]]:
    """Time whole processes in alternating rounds; the first, which fills caches, is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            begin = time.perf_counter()
            run_child(command)
            if number:
                spent[name].append(time.perf_counter() - begin)
    base = spent.get(BASE)
    return {
        name: {"median_seconds": round(statistics.median(runs), 3), "fastest_seconds": round(min(runs), 3)}
        | ({"sooner_than_open_clip_by": ratio(base, runs)} if base else {})
        for name, runs in spent.items()
    }


def main() -> None:
    """Run the comparisons and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--preset", default="ViT-B-32")
    parser.add_argument("--batches", default="32,1")
    parser.add_argument("--contestants", default=",".join((*PEERS, *OURS)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--json", help="file to write besides standard output")
    parser.add_argument("--contestant", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--start", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--round-seconds", type=float, default=3.0, help="of each contestant, about")
    quick = f"{BASE},torch float32,torch bfloat16"
    options = options_of(parser, contestants=quick, batches="8", rounds=1, starts=0, round_seconds=1.0)
    if options.contestant:
        ours = Ours()
        answer_questions({"build": ours.build, "embed": ours.embed, "run": ours.run})
        return
    if options.start:
        start(options.start[0], Path(options.start[1]), options.start[2])
        return
    homes, skipped = able(options)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        facts = prepare(options, list(homes), folder)
        result: dict[str, Any] = {
            "benchmark": "inference",
            "preset": options.preset,
            "machine": machine(),
            "measured_on": described(options.data),
            "skipped": skipped,
        } | facts
        kinds, batches = ("image", "text"), list(map(int, options.batches.split(",")))
        shown = Rows(len(kinds) * len(batches) + (2 if options.starts else 0))
        for kind in ("image", "both") if options.starts else ():
            commands = {name: [*home, "--start", name, place, kind] for name, home in homes.items()}
            result[f"start, {kind}"] = starting(commands, options.starts)
            shown.show(f"start, {kind}", result[f"start, {kind}"])
        contestants = {name: [*home, "--contestant"] for name, home in homes.items()}
        for kind in kinds:
            for batch in batches:
                name = f"{kind}, batch {batch}"
                result[name] = compare(
                    contestants,
                    folder,
                    kind,
                    batch,
                    rounds=options.rounds,
                    round_seconds=options.round_seconds,
                )
                shown.show(name, {one: row["per_second"] for one, row in result[name].items()})
    write_result(result, options.json)


def able(options: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return how to start each contestant that can run here, and why the others cannot."""
    asked, homes, skipped = options.contestants.split(","), dict[str, list[str]](), dict[str, str]()
    for name in (*PEERS, *OURS):
        if name not in asked:
            continue
        python = options.peer_python if name in PEERS else sys.executable
        reason = missing(python, *(("open_clip",) if name in PEERS else NEEDS[name.split()[0]]))
        if reason:
            skipped |= skip(name, reason)
        else:
            homes[name] = [python, str(PEER) if name in PEERS else __file__]
    return homes, skipped


if __name__ == "__main__":
    main()
