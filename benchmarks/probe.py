"""Time of the paper's linear probe, the whole search over C, beside scikit-learn's logistic regression.

Both fit the same 15 values of C on the same float32 features, and scikit-learn is given the values that our
search chose to try. Each contestant is a process of its own; the two alternate, fit by fit. Objectives are
computed in float64 by one function for both, so that an early stop cannot pass for speed: the table says, for
each C, whose objective is lower, and how large the gradients are.

    python benchmarks/probe.py [--rows 50000] [--width 512] [--classes 100] [--noise 8]
        [--limit SECONDS] [--quick] [--json FILE]

With --limit scikit-learn starts no fit after so many seconds of fitting, and both are compared on the
values of C that it fitted; all of our preparation counts.

Features are synthetic: class means and noise share a spectrum that falls as i^-1/2, as tower features do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
from typing import Any

import numpy as np
from contest import Contestant, Rows, answer_questions, machine, options_of, write_result


def features(rows: int, width: int, classes: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return features (rows, width) float32 and labels."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, width + 1) ** -0.5
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    means = rng.normal(size=(classes, width)) * spectrum
    labels = rng.integers(0, classes, size=rows)
    table = (means[labels] + noise * rng.normal(size=(rows, width)) * spectrum) @ rotation
    return (table + 0.5 * rng.normal(size=width)).astype(np.float32), labels


class Bench:
    """One contestant's data and what it fitted."""

    def start(self, rows: int, width: int, classes: int, noise: float, threads: int) -> dict[str, Any]:
        """Make the data: training rows and a fifth as many for validation."""
        if threads:
            import torch

            torch.set_num_threads(threads)
        table, labels = features(rows * 6 // 5, width, classes, noise)
        self.train, self.val = (table[:rows], labels[:rows]), (table[rows:], labels[rows:])
        return {}

    def score(self, coef: np.ndarray, intercept: np.ndarray, c: float) -> dict[str, Any]:
        """Measure a fit in float64, with one function for both contestants."""
        from diptych.evaluate.probe.solver import measure

        table, labels = self.train
        value, norm = measure(table, labels, coef, intercept, 1 / (c * len(table)))
        right = (self.val[0] @ coef.T + intercept).argmax(axis=1) == self.val[1]
        return {"objective": value, "gradient": norm, "accuracy": float(right.mean())}

    def ours(self) -> dict[str, Any]:
        """Run the whole search, without the last fit on everything."""
        from diptych.evaluate.probe.linear_probe import LinearProbe, PenaltySearch, strength

        watch = time.perf_counter()
        search = PenaltySearch(*self.train, *self.val, LinearProbe())
        prepared = time.perf_counter() - watch
        fits: list[dict[str, Any]] = []
        for step in search.steps():
            begun = time.perf_counter()
            search.attempt(step)
            fit = {"C": strength(step), "seconds": time.perf_counter() - begun}
            solution = search.trials[step].solution
            scores = self.score(solution.coef, solution.intercept, fit["C"])
            fits.append({**fit, "iterations": solution.iterations, **scores})
        return {"fits": fits, "prepare_seconds": prepared}

    def theirs(self, c: float) -> dict[str, Any]:
        """Fit one C with scikit-learn, from zero as it does."""
        from sklearn.linear_model import LogisticRegression

        watch = time.perf_counter()
        model = LogisticRegression(C=c, max_iter=1000).fit(*self.train)
        seconds = time.perf_counter() - watch
        coef, intercept = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
        scores = self.score(coef, intercept, c)
        return {"C": c, "seconds": seconds, "iterations": int(model.n_iter_[0]), **scores}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--noise", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds of scikit-learn's fits")
    parser.add_argument("--json", help="file to write as well")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = options_of(parser, rows=5_000, width=256, classes=50, limit=20.0)
    if options.worker:
        bench = Bench()
        answer_questions({"start": bench.start, "ours": bench.ours, "theirs": bench.theirs})
        return
    sizes = {name: getattr(options, name) for name in ("rows", "width", "classes", "noise", "threads")}
    contestants = [Contestant([sys.executable, __file__, "--worker"]) for _ in range(2)]
    for contestant in contestants:
        contestant.ask(do="start", **sizes)
    before = contestants[0].ask(do="ours")
    peers: list[dict[str, Any]] = []
    shown = Rows(len(before["fits"]))
    for fit in before["fits"]:
        if sum(peer["seconds"] for peer in peers) < options.limit:
            peers.append(contestants[1].ask(do="theirs", c=fit["C"]))
            shown.show(f"C = {fit['C']:.3g}", f"{peers[-1]['seconds']:.1f} s, ours {fit['seconds']:.1f} s")
    after = contestants[0].ask(do="ours")
    for contestant in contestants:
        contestant.close()
    both = slice(len(peers))
    totals = [
        run["prepare_seconds"] + sum(fit["seconds"] for fit in run["fits"][both]) for run in (before, after)
    ]
    theirs = sum(fit["seconds"] for fit in peers)
    write_result(
        {
            "benchmark": "probe",
            "machine": machine(),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "scikit-learn")},
            **sizes,
            "fits_compared": len(peers),
            "fits_of_the_search": len(before["fits"]),
            "ours_seconds": totals,
            "scikit_learn_seconds": theirs,
            "speed_up": theirs / (sum(totals) / 2),
            "equal_or_lower_objective": [
                ours["objective"] <= peer["objective"] * (1 + 1e-6)
                for ours, peer in zip(before["fits"][both], peers, strict=True)
            ],
            "fits": [
                {"ours": ours, "scikit_learn": peer}
                for ours, peer in zip(before["fits"][both], peers, strict=True)
            ],
        },
        options.json,
    )


if __name__ == "__main__":
    main()
