"""Compare our tokenizer with open_clip's: the same ids, and how many texts a second.

Run: python benchmarks/tokenizer.py --peer-python PATH [--data FOLDER] [--fuzz 100000] [--quick] [--json FILE]
`--peer-python` is the interpreter of an environment that has open_clip (and, for a third column,
transformers). Ids are compared on captions and on fuzzed strings; speed is measured on captions and on titles
of products, clean-up included, one process, in interleaved rounds (ours, theirs, ours, …), and the median of
the rounds is told.

Reads: `inputs.py`. Writes: JSON to standard output, and to `--json` if given.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contest import Contestant, Rows, machine, missing, options_of, skip, write_result
from inputs import add_data, captions, described, merges, products

from diptych.data.tokenizers.clip import Tokenizer

BATCH = 512  # texts a call, as a training loader makes them
SEED = 2021
PEER = Path(__file__).with_name("tokenizer_peer.py")


def _letters(rng: random.Random, ranges: tuple[tuple[int, int], ...], most: int) -> str:
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, most)))


ASCII = ((0, 127),)
WIDE = (
    (32, 126), (32, 126), (0, 0x24F), (0x250, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF),
    (0x1E00, 0x20CF), (0x2100, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xD800, 0xDFFF), (0xE000, 0xE0FF), (0xFB00, 0xFDFF), (0xFE00, 0xFFFF),
    (0x1F000, 0x1FAFF), (0xE0000, 0xE01FF),
)  # fmt: skip
SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2003\u2028\u2029\u200b\u202f\u3000\ufeff"
ENTITIES = (
    "&amp;",
    "&amp;amp;",
    "&lt;",
    "&#39;",
    "&#x27;",
    "&#0;",
    "&#xD800;",
    "&nbsp;",
    "&eacute",
    "&",
    "&;",
    "&#;",
)
SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|EndOfText|>",
    "<|\u017ftartoftext|>",
    "<|endoftext",
    "<end_of_text>",
)
ENDINGS = (
    "'s",
    "'T",
    "'Re",
    "'LL",
    "'\u017f",
    "\u2019s",
    "'d've",
    "'M",
    "''",
    "\u212a",
    "İ",
    "ΑΣ",
    "ß",
    "ǅ",
    "ﬁ",
)


def fuzz(captions: list[str], count: int, seed: int) -> list[str]:
    """Return texts of every kind of trouble: entities, mojibake, controls, scripts, typed specials."""
    rng = random.Random(seed)

    def mutated() -> str:
        text = list(rng.choice(captions))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(text) + 1)
            text[place : place + rng.randint(0, 2)] = rng.choice(
                (_letters(rng, WIDE, 2), "", " ", text[place:][:3])
            )
        return "".join(text).swapcase() if rng.random() < 0.3 else "".join(text)

    def mojibake() -> str:
        text = rng.choice(("café", "naïve “quoted” — dash", "日本語", "Ünï", "l’été €5")) + _letters(
            rng, WIDE[2:5], 8
        )
        for _ in range(rng.randint(1, 2)):
            text = text.encode("utf-8", "replace").decode(rng.choice(("latin-1", "cp1252")), "replace")
        return text

    def pieces() -> str:
        parts = (
            *ENTITIES,
            *SPECIALS,
            *ENDINGS,
            *SPACES,
            "\x1b[31m",
            "\x1b[0m",
            "5",
            "12",
            "a",
            "Dog",
            "é",
            "🐶",
            "。",
        )
        return "".join(rng.choice(parts) for _ in range(rng.randint(0, 14)))

    kinds: tuple[Callable[[], str], ...] = (
        mutated, mojibake, pieces,
        lambda: _letters(rng, ASCII, 60),
        lambda: _letters(rng, WIDE, 40),
        lambda: _letters(rng, ((97, 122),), 300),
        lambda: rng.choice("ae!5é字") * rng.randint(1, 200),
        lambda: rng.choice(SPACES).join(rng.choice(captions).split()),
        lambda: "".join(chr(rng.randint(*rng.choice(WIDE))) for _ in range(6)) + rng.choice(captions),
    )  # fmt: skip
    return [rng.choice(kinds)() for _ in range(count)]


def _batches(texts: list[str]) -> list[list[str]]:
    return [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]


def _seconds(tokenizer: Tokenizer, texts: list[str]) -> float:
    begin = time.perf_counter()
    for batch in _batches(texts):
        tokenizer.tokens(batch)
    return time.perf_counter() - begin


def compare_ids(tokenizer: Tokenizer, peer: Contestant, texts: list[str]) -> dict[str, Any]:
    """Return how many texts have other ids or other rows than the peer's, with the first few."""
    different: list[str] = []
    for batch in _batches(texts):
        ids = [tokenizer.encode(text) for text in batch]
        rows = tokenizer.tokens(batch).tolist()
        theirs = peer.ask(do="ids", texts=batch)
        for place, text in enumerate(batch):
            if ids[place] != theirs["ids"][place] or rows[place] != theirs["rows"][place]:
                different.append(text)
    return {"texts": len(texts), "different": len(different), "first": different[:5]}


def measure(published: Path, peer: Contestant, texts: list[str], rounds: int) -> dict[str, Any]:
    """Return texts a second in interleaved rounds; "cold" is a new tokenizer's first pass."""
    names = peer.ask(do="names")
    ours = Tokenizer.from_merges(published)
    ours.encode("the engine is built by the first word")
    cold = {"diptych": len(texts) / _seconds(ours, texts)}
    cold |= {name: len(texts) / peer.ask(do="time", name=name, texts=texts) for name in names}
    rates: dict[str, list[float]] = {name: [] for name in ("diptych", *names)}
    for _ in range(rounds):
        rates["diptych"].append(len(texts) / _seconds(ours, texts))
        for name in names:
            rates[name].append(len(texts) / peer.ask(do="time", name=name, texts=texts))
    warm = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "texts": len(texts),
        "cold_texts_per_second": {name: round(value) for name, value in cold.items()},
        "warm_texts_per_second": {name: round(value) for name, value in warm.items()},
        "warm_rounds": {name: [round(value) for value in values] for name, values in rates.items()},
        "ratio_to_open_clip_warm": round(warm["diptych"] / warm["open_clip"], 2),
        "ratio_to_open_clip_cold": round(cold["diptych"] / cold["open_clip"], 2),
    }


def main() -> None:
    """Run both comparisons and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--fuzz", type=int, default=100_000)
    parser.add_argument("--captions", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="file to write besides standard output")
    options = options_of(parser, fuzz=3_000, captions=3_000, rounds=1)
    result: dict[str, Any] = {
        "benchmark": "tokenizer",
        "machine": machine(),
        "measured_on": described(options.data),
        "versions": {name: version(name) for name in ("diptych", "tokenizers", "ftfy", "regex", "numpy")},
    }
    if reason := missing(options.peer_python, "open_clip"):
        write_result(
            result | {"skipped": skip("tokenizer", f"it compares with open_clip: {reason}")}, options.json
        )
        return
    texts, published = captions(options.data, options.captions), merges(options.data, options.peer_python)
    sources = {"captions": texts, "products": products(options.data, options.captions)[1]}
    peer, shown = Contestant([options.peer_python, str(PEER)]), Rows(2 + len(sources))
    tokenizer = Tokenizer.from_merges(published)
    result |= {"peer_versions": peer.ask(do="versions"), "ids": {}, "speed": {}}
    for name, compared in (("captions", texts), ("fuzz", fuzz(texts, options.fuzz, SEED))):
        result["ids"][name] = compare_ids(tokenizer, peer, compared)
        shown.show(f"ids, {name}", result["ids"][name])
    for name, compared in sources.items():
        result["speed"][name] = measure(published, peer, compared, options.rounds)
        shown.show(f"speed, {name}", result["speed"][name])
    peer.close()
    write_result(result, options.json)


if __name__ == "__main__":
    main()
