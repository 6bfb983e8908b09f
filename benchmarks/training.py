"""Training samples a second, beside open_clip and transformers: the same towers, batches and precision.

    python benchmarks/training.py --peer-python PEERS/bin/python [--data FOLDER] [--quick]
        [--cases vit-b-32,small,fashion] [--precisions bfloat16,float32] [--rounds 5] [--json FILE]

What is timed is the step: forward, contrastive loss, backward, AdamW with the paper's constants, and the
bound on the logit scale, on photos and titles that lie decoded in memory. Each contestant is a process of its
own and runs as its users run it: ours as `diptych train` does, open_clip with the elements of its own
training loop, transformers with its model, its loss and the optimizer of its Trainer (fused AdamW). They take
turns, a few steps each; medians of the rounds and of the rounds' ratios are reported. Peers get the captions
padded to the context, as both do for all their users; ours gets them cut to the batch's longest, as its
loader cuts them.

`cpu_seconds` is the processor time of a round, all threads: on a machine that others use too its ratio says
more than that of wall time.

Reads: `inputs.py`: product photos, or drawn scenes of the same size, and the published vocabulary.
Writes: JSON to standard output, and to the file of --json. The peers' interpreter (DIPTYCH_PEERS_PYTHON)
needs open_clip 3.3 and transformers 5; without it only ours is measured.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

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
from inputs import add_data, described, products, vocabulary

RECIPE = Path(__file__).parents[1] / "recipes" / "fashion.toml"
PEER = Path(__file__).with_name("training_peer.py")
OURS = "diptych"
PEERS = ("open_clip", "transformers")
PARTS = ("cases", "precisions", "contestants")
BATCHES = 4
"""Different batches in memory; the steps go round them."""
ROUND_SECONDS = 4.0
"""A round is as many steps as ours does in this time: long enough for a clock, short enough to alternate."""
WARM_UP_STEPS = 2
TITLES = 30_000  # that the vocabulary of the case fashion is learnt from
LEARNING_RATE = 1e-4


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Towers and batches of one comparison.

    Attributes:
        preset: the towers, as `diptych.models.towers.presets` names them.
        batch_size: pairs a step.
        context_length: what peers pad to; None takes the preset's.
        activation: of the MLPs; None takes the preset's. Each library has both.
        own_vocabulary: a vocabulary of the recipe's size trained on the titles, instead of the published one.
        why: what this case shows.
    """

    preset: str
    batch_size: int
    context_length: int | None = None
    activation: Literal["quick_gelu", "gelu"] | None = None
    own_vocabulary: bool = False
    why: str = ""


def cases() -> dict[str, Case]:
    """List the comparisons; the last one follows the recipe for the fashion photos."""
    from diptych.cli.recipe import load_recipe

    recipe = load_recipe(RECIPE)
    return {
        "vit-b-32": Case("ViT-B-32", 32, 77, why="the paper's model: matrix products decide"),
        "small": Case("vit-tiny-8-64", 256, 32, why="192 wide: elementwise work decides"),
        "small-gelu": Case("vit-tiny-8-64", 256, 32, "gelu", why="small, with open_clip's own default"),
        "fashion": Case(
            recipe.model.preset,
            int(recipe.train["batch_size"]),
            recipe.tokenizer.context_length,
            own_vocabulary=True,
            why="the recipe's towers, batch and vocabulary",
        ),
    }


def prepare(case: Case, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write pixels (N, H, W, 3) uint8 and tokens (N, L) int64 of pairs; return what contestants need."""
    import numpy as np

    from diptych.cli.recipe import load_recipe
    from diptych.data.images.transforms import Preprocess, read_pixels
    from diptych.data.tokenizers.clip import Tokenizer
    from diptych.models.towers.presets import preset

    config = preset(case.preset)
    context_length = case.context_length or config.text.context_length
    count = case.batch_size * BATCHES
    images, captions = products(options.data, TITLES if case.own_vocabulary else count)
    if case.own_vocabulary:
        size = load_recipe(RECIPE).tokenizer.size
        tokenizer = Tokenizer.train(captions, size=size, context_length=context_length)
    else:
        tokenizer = vocabulary(options, context_length)
    if case.activation:
        config = dataclasses.replace(config, activation=case.activation)
    config = config.with_tokenizer(
        vocab_size=tokenizer.vocab_size,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        context_length=context_length,
    )
    preprocess = Preprocess(size=config.vision.image_size, resize="squash")
    pixels = np.stack([read_pixels(image, preprocess) for image in images[:count]])
    return write_inputs(folder, config, tokenizer, preprocess, pixels, captions[:count], case.batch_size)


def write_inputs(
    folder: Path,
    config: Any,
    tokenizer: Any,
    preprocess: Any,
    pixels: Any,
    captions: list[str],
    batch_size: int,
) -> dict[str, Any]:
    """Write what contestants read, and return what they need beside it."""
    import numpy as np

    from diptych.core.settings import to_mapping

    tokens = tokenizer.tokens(captions)
    np.save(folder / "pixels.npy", pixels)
    np.save(folder / "tokens.npy", tokens)
    tokenizer.save(folder / "tokenizer")
    lengths = (tokens == tokenizer.end_id).argmax(axis=1) + 1
    return {
        "folder": str(folder),
        "batch_size": batch_size,
        "learning_rate": LEARNING_RATE,
        "config": to_mapping(config),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "tokens_a_caption": round(float(lengths.mean()), 2),
        "longest_caption": int(lengths.max()),
    }


class Ours:
    """diptych's side: the trainer's own step on prepared batches."""

    def build(
        self,
        *,
        folder: str,
        config: dict[str, Any],
        precision: str,
        batch_size: int,
        learning_rate: float,
        engine: str | None = None,
        device: str = "cpu",
        compiled: bool = False,
        **_others: Any,
    ) -> dict[str, Any]:
        """Build model and optimizer; return the facts about them."""
        from diptych.core.machine import keep_freed_memory

        keep_freed_memory()  # first of all, as the command line does: torch is not imported yet
        import torch

        from diptych.core.settings import from_mapping
        from diptych.data.images.transforms import Preprocess
        from diptych.data.tokenizers.clip import Tokenizer
        from diptych.models.model import Model
        from diptych.models.towers.clip import build
        from diptych.models.towers.config import ClipConfig
        from diptych.models.towers.numerics import default_engine
        from diptych.train.loss import contrastive_loss
        from diptych.train.settings import TrainSettings
        from diptych.train.steps import TrainStep

        shape = from_mapping(ClipConfig, config)
        tokenizer = Tokenizer.load(Path(folder) / "tokenizer", context_length=shape.text.context_length)
        preprocess = Preprocess(size=shape.vision.image_size, resize="squash")
        model = Model(build(shape, seed=0), tokenizer, preprocess)
        settings = TrainSettings(
            steps=1_000_000,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=0,
            precision="bfloat16" if precision == "bfloat16" else "float32",
            device=device,
            compile=compiled,
        )
        model.to(settings.resolved_device())
        self.stepper = TrainStep(model, settings, contrastive_loss, total_steps=1_000_000)
        self.batches = _our_batches(Path(folder), batch_size)
        if device == "cuda":  # as the loader does
            self.batches = [batch.pin_memory() for batch in self.batches]
        self.done, self.engine = 0, engine or default_engine()
        return {
            "parameters": sum(parameter.numel() for parameter in model.clip.parameters()),
            "engine": self.engine,
            "versions": {"diptych": version("diptych"), "torch": torch.__version__},
            "threads": torch.get_num_threads(),
        }

    def steps(self, *, count: int) -> dict[str, Any]:
        """Do some steps; return seconds and losses."""
        from training_peer import timed

        from diptych.models.towers.numerics import numerics

        def step() -> float:
            done = self.stepper.step(self.batches[self.done % len(self.batches)], self.done)
            self.done += 1
            return done.loss

        with numerics(self.engine):
            return timed(step, count)


def _our_batches(folder: Path, batch_size: int) -> list[Any]:
    """Make the batches that diptych's loader would make of the prepared pairs."""
    import numpy as np
    import torch

    from diptych.data.loader import Batch

    pixels, tokens = np.load(folder / "pixels.npy"), np.load(folder / "tokens.npy")
    batches = []
    for first in range(0, len(pixels), batch_size):
        rows = slice(first, first + batch_size)
        longest = int(np.flatnonzero(tokens[rows].any(axis=0))[-1]) + 1
        batches.append(
            Batch(
                pixels=torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2),
                tokens=torch.from_numpy(np.ascontiguousarray(tokens[rows, :longest])),
                indices=torch.arange(first, first + batch_size),
                epoch=0,
                samples_seen=first + batch_size,
            )
        )
    return batches


def commands(peer_python: str | None, wanted: set[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return how to start each contestant that can run here, and why the others cannot."""
    found, skipped = {OURS: [sys.executable, __file__, "--contestant"]}, dict[str, str]()
    for name in PEERS:
        if name in wanted and (reason := missing(peer_python, name)):
            skipped |= skip(name, reason)
        elif name in wanted:
            found[name] = [str(peer_python), str(PEER), name]
    return found, skipped


def compare(
    spec: dict[str, Any], precision: str, *, starts: dict[str, list[str]], rounds: int, round_seconds: float
) -> dict[str, Any]:
    """Measure all contestants on one case in one precision, in alternating rounds."""
    contestants = {name: Contestant(command) for name, command in starts.items()}
    row: dict[str, Any] = {"precision": precision, "batch_size": spec["batch_size"], "skipped": {}}
    facts: dict[str, Any] = {}
    for name, contestant in list(contestants.items()):
        facts[name] = contestant.ask(do="build", precision=precision, **spec)
        if "skipped" in facts[name]:
            row["skipped"][name] = facts.pop(name)["skipped"]
            contestants.pop(name).close()
            continue
        facts[name]["first_losses"] = contestant.ask(do="steps", count=WARM_UP_STEPS)["losses"]
    tried = contestants[OURS].ask(do="steps", count=1)["seconds"]
    count = max(1, round(round_seconds / tried))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            found[name].append(contestant.ask(do="steps", count=count))
    for contestant in contestants.values():
        contestant.close()
    seconds = {name: [one["seconds"] for one in rows] for name, rows in found.items()}
    cpu = {name: [one["cpu_seconds"] for one in rows] for name, rows in found.items()}
    samples = spec["batch_size"] * count
    row |= {"steps_a_round": count, "rounds": rounds}
    for name in contestants:
        row[name] = facts[name] | {
            "samples_per_second": round(samples / statistics.median(seconds[name]), 2),
            "rounds_samples_per_second": [round(samples / one, 2) for one in seconds[name]],
            "samples_per_cpu_second": round(samples / statistics.median(cpu[name]), 2),
            "last_loss": found[name][-1]["losses"][-1],
        }
        if name != OURS:
            row[name]["ours_faster_by"] = ratio(seconds[name], seconds[OURS])
            row[name]["ours_faster_by_cpu_time"] = ratio(cpu[name], cpu[OURS])
    speeds = [row[name]["ours_faster_by"] for name in contestants if name != OURS]
    row["ours_faster_than_the_fastest_by"] = min(speeds, default=None)
    return row


def main() -> None:
    """Run the comparisons and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--cases", default="vit-b-32,small,fashion")
    parser.add_argument("--precisions", default="bfloat16,float32")
    parser.add_argument("--contestants", default=",".join(PEERS), help="peers to measure beside ours")
    parser.add_argument("--preset", help="other towers for the case fashion")
    parser.add_argument("--engine", choices=("onednn", "mkl"), help="of our float32 products")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, default=ROUND_SECONDS)
    parser.add_argument("--json", help="file to write besides standard output")
    parser.add_argument("--contestant", action="store_true", help=argparse.SUPPRESS)
    options = options_of(
        parser, cases="small", precisions="bfloat16", contestants="open_clip", rounds=2, round_seconds=2.0
    )
    if options.contestant:
        ours = Ours()
        answer_questions({"build": ours.build, "steps": ours.steps})
        return
    asked, precisions, peers = (getattr(options, part).split(",") for part in PARTS)
    starts, skipped = commands(options.peer_python, set(peers))
    rows, shown = {}, Rows(len(asked) * len(precisions))
    for name in asked:
        case = cases()[name]
        if options.preset and name == "fashion":
            case = dataclasses.replace(case, preset=options.preset)
        with tempfile.TemporaryDirectory() as folder:
            spec = prepare(case, options, Path(folder)) | {"engine": options.engine}
            found = {}
            for precision in precisions:
                found[precision] = compare(
                    spec,
                    precision,
                    starts=starts,
                    rounds=options.rounds,
                    round_seconds=options.round_seconds,
                )
                faster = found[precision]["ours_faster_than_the_fastest_by"]
                shown.show(f"{name} {precision}", f"{faster} times the fastest peer")
        about = {"why": case.why, "config": spec["config"], "tokens_a_caption": spec["tokens_a_caption"]}
        rows[name] = about | found
    facts = {"machine": machine(), "measured_on": described(options.data), "skipped": skipped}
    write_result({"benchmark": "training", **facts, "cases": rows}, options.json)


if __name__ == "__main__":
    main()
