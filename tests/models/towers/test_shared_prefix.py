"""Texts that begin alike: the same numbers as one by one, for a fraction of the tokens."""

import numpy as np
import pytest
import torch

from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, TextConfig, VitConfig
from diptych.models.towers.shared_prefix import plan_sharing, read_shared

START, END, WORDS, CONTEXT = 60, 61, 60, 20
CONFIG = ClipConfig(24, VitConfig((16, 16), 8, 32, 1, 2), TextConfig(CONTEXT, 62, 32, 3, 4, START, END))


def texts(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rows that are templates filled with names, some without a neighbor, some twice, some full."""
    beginnings = [rng.integers(0, WORDS, rng.integers(0, 6)).tolist() for _ in range(5)]
    endings = [rng.integers(0, WORDS, rng.integers(0, 4)).tolist() for _ in range(5)]
    rows = np.zeros((count, CONTEXT), np.int64)
    for row in range(count):
        which = rng.integers(0, 6)
        name = rng.integers(0, WORDS, rng.integers(1, 5)).tolist()
        body = (
            rng.integers(0, WORDS, 18).tolist()
            if which == 5
            else [*beginnings[which], *name, *endings[which]]
        )
        tokens = [START, *body[: CONTEXT - 2], END]
        rows[row, : len(tokens)] = tokens
    rows[-1] = rows[0]
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_shared_beginnings_change_no_number(seed: int) -> None:
    tower = build(CONFIG, seed=seed).double().eval()
    tokens = texts(np.random.default_rng(seed), 150)
    plan = plan_sharing(tokens, END)
    assert plan.share < 0.9
    with torch.inference_mode():
        shared = read_shared(tower.text, tokens, plan)
        alone = torch.cat([tower.text(torch.from_numpy(row[None])) for row in tokens])
    assert torch.allclose(shared, alone, atol=1e-12, rtol=0)


def test_a_plan_by_hand() -> None:
    """Four texts share three tokens, two more share only the start; the end token is never shared."""
    rows = [[START, 1, 2, 3, END], [START, 1, 2, 4, END], [START, 1, 2, 5, END], [START, 1, 2, END, 0],
            [START, 7, END, 0, 0], [START, END, 0, 0, 0]]  # fmt: skip
    plan = plan_sharing(np.array(rows), END)
    shared = [plan.beginnings[which] for which in plan.owner]
    assert shared == [(START, 1, 2)] * 4 + [(START,)] * 2
    assert plan.ends.tolist() == [5, 5, 5, 4, 3, 2]
    assert plan.share == pytest.approx((3 + 1 + 2 + 2 + 2 + 1 + 2 + 1) / 24)


def test_texts_without_anything_in_common_are_left_alone() -> None:
    plan = plan_sharing(np.array([[START, 3, END], [START, 4, END]]), END)
    assert plan.share > 0.8
