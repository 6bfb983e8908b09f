"""ViT-B/32 on one GPU: pairs trained a second and share of the peak, beside open_clip.

    python benchmarks/training_gpu.py [--data FOLDER] [--peer-python PYTHON] [--quick]
        [--preset ViT-B-32] [--batch 1024] [--contestants diptych,open_clip] [--rounds 5] [--json FILE]

The step of `training.py` (forward, contrastive loss, backward, AdamW) in bfloat16, from bytes in the host's
memory: moving them to the GPU is part of it. Names ending in "+compile" go through torch.compile, as
`train.compile` and open_clip's --torchcompile do. Contestants are processes of their own and take turns;
medians of rounds and of the rounds' ratios are reported. Images are noise, which costs what photos cost;
captions those of `inputs.py`.

`share_of_peak` counts what the model must compute for a pair with its whole context (matrix products of a
forward pass, three times), whatever a contestant leaves out, over the rate of an 8192³ bfloat16 product on
the same GPU. `share_of_datasheet` is over --datasheet TFLOP/s (989: H100 and H200, dense).

Reads: the captions and the vocabulary of `inputs.py`. Writes: JSON to standard output, and to the file of
--json.
"""

import argparse
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contest import Contestant, Rows, machine, missing, options_of, ratio, skip, write_result
from inputs import add_data, captions, described, vocabulary
from training import write_inputs

HERE = Path(__file__).parent
COMPILED = "+compile"
SIDE = 8192
PRODUCTS = 20
BATCHES = 2
WARM_UP_STEPS = 5


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write pixels and tokens as `training.py` does; return what contestants need."""
    import numpy as np

    from diptych.data.images.transforms import Preprocess
    from diptych.models.towers.presets import preset

    count = options.batch * BATCHES
    texts = captions(options.data, count)
    config = preset(options.preset)
    tokenizer = vocabulary(options)
    preprocess = Preprocess(size=config.vision.image_size)
    shape = (count, *preprocess.size, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    return write_inputs(folder, config, tokenizer, preprocess, pixels, texts, options.batch)


def operations(config: dict[str, Any]) -> float:
    """Return floating point operations of a pair's training step: three forward passes' matrix products."""
    vision, text, out = config["vision"], config["text"], config["embed_dim"]
    patch, (height, width) = vision["patch_size"], vision["image_size"]
    patches = (height // patch) * (width // patch)

    def tower(tokens: int, part: dict[str, Any]) -> float:
        wide = part["width"]
        layer = (4 + 2 * part["mlp_ratio"]) * wide * wide * tokens + 2 * tokens * tokens * wide
        return part["layers"] * layer + wide * out

    stem = patches * 3 * patch * patch * vision["width"]
    return 3 * 2 * (stem + tower(patches + 1, vision) + tower(text["context_length"], text))


def peak() -> float:
    """Return the TFLOP/s of a large bfloat16 product on random data."""
    import torch

    left, right = (torch.randn(SIDE, SIDE, device="cuda").bfloat16() for _ in range(2))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    for _ in range(3):
        left @ right
    rates = []
    for _ in range(PRODUCTS):
        events[0].record()
        left @ right
        events[1].record()
        torch.cuda.synchronize()
        rates.append(2 * SIDE**3 / events[0].elapsed_time(events[1]) / 1e9)
    return statistics.median(rates)


def compare(spec: dict[str, Any], commands: dict[str, list[str]], options: argparse.Namespace) -> Any:
    """Let the contestants take turns."""
    contestants = {name: Contestant(command) for name, command in commands.items()}
    facts, seconds = {}, {name: [] for name in contestants}
    for name, contestant in contestants.items():
        compiled = name.endswith(COMPILED)
        facts[name] = contestant.ask(
            do="build", precision="bfloat16", device="cuda", compiled=compiled, **spec
        )
        print(f"{name} is built", file=sys.stderr)
        facts[name]["first_losses"] = contestant.ask(do="steps", count=WARM_UP_STEPS)["losses"]
    shown = Rows(options.rounds * len(contestants))
    for _ in range(options.rounds):
        for name, contestant in contestants.items():
            seconds[name].append(contestant.ask(do="steps", count=options.steps)["seconds"])
            shown.show(name, f"{options.batch * options.steps / seconds[name][-1]:.0f} pairs a second")
    for contestant in contestants.values():
        contestant.close()
    return facts, seconds


def main() -> None:
    """Run the comparison and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--preset", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--datasheet", type=float, default=989.0)
    parser.add_argument("--contestants", default="diptych,open_clip")
    parser.add_argument("--json")
    options = options_of(parser, batch=256, steps=5, rounds=2)
    import torch

    if not torch.cuda.is_available():
        write_result(
            {"benchmark": "training_gpu", "skipped": skip("training_gpu", "no CUDA device")}, options.json
        )
        return
    reason = missing(options.peer_python, "open_clip")
    skipped = skip("open_clip", reason) if reason else {}
    ours = [sys.executable, str(HERE / "training.py"), "--contestant"]
    peer = [str(options.peer_python), str(HERE / "training_peer.py")]
    commands = {
        name: ours if name.startswith("diptych") else [*peer, name.removesuffix(COMPILED)]
        for name in options.contestants.split(",")
        if name.startswith("diptych") or not reason
    }
    measured = peak()
    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        spec = prepare(options, Path(folder))
        facts, seconds = compare(spec, commands, options)
    work, rows = operations(spec["config"]), {}
    for name, spent in seconds.items():
        rate = options.batch * options.steps / statistics.median(spent)
        rows[name] = facts[name] | {
            "pairs_per_second": round(rate),
            "rounds_seconds": [round(one, 4) for one in spent],
            "share_of_peak": round(rate * work / measured / 1e12, 4),
            "share_of_datasheet": round(rate * work / options.datasheet / 1e12, 4),
            "times_open_clip": ratio(seconds["open_clip"], spent) if "open_clip" in seconds else None,
        }
    result = {
        "benchmark": "training_gpu",
        "machine": machine() | {"gpu": torch.cuda.get_device_name(), "product_tflops": round(measured, 1)},
        "versions": {"diptych": version("diptych"), "torch": torch.__version__},
        "measured_on": described(options.data),
        "skipped": skipped,
        "preset": options.preset,
        "batch": options.batch,
        "gflop_a_pair": round(work / 1e9, 2),
        "tokens": {name: spec[name] for name in ("tokens_a_caption", "longest_caption")},
        "rows": rows,
    }
    write_result(result, options.json)


if __name__ == "__main__":
    main()
