"""What a GPU computes, against the processor; skipped where there is none."""

import json
import shutil
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch

from diptych.evaluate.probe.linear_probe import LinearProbe
from diptych.models import checkpoint
from diptych.models.model import Model
from diptych.train.loss import contrastive_loss
from diptych.train.steps import TrainStep
from diptych.train.trainer import prepare_loader, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run(work: Path, folder: Path, *, resume: bool = False, **changes: object) -> Model:
    settings = tiny_run.make_settings(**{"steps": 12, "save_every_steps": 5, **changes})
    model = tiny_run.make_model(work, kind="vit")
    loader = tiny_run.make_loader(work, model, settings, workers=2)
    train(model, loader, settings, run_folder=folder, resume=resume)
    return checkpoint.load(folder / "model")


def near(ours: Model, theirs: Model, *, within: float) -> bool:
    pixels = torch.randn(8, 3, *ours.config.vision.image_size)
    tokens = ours.tokenize(["a red picture", "number 7 is quite blue", ""])
    rows = [
        torch.cat([model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)])
        for model in (ours, theirs)
    ]
    return torch.allclose(*rows, atol=within)


def test_float32_training_follows_the_processors(work: Path, tmp_path: Path) -> None:
    models = [run(work, tmp_path / device, device=device) for device in ("cpu", "cuda")]
    assert [model.device.type for model in models] == ["cpu", "cpu"]
    assert near(*models, within=1e-3)


def test_a_step_waits_for_the_device_once(work: Path) -> None:
    model = tiny_run.make_model(work, kind="vit").to("cuda")
    settings = tiny_run.make_settings(device="cuda", steps=12)
    loader = tiny_run.make_loader(work, model, settings, workers=1)
    prepare_loader(loader, model)
    steps = TrainStep(model, settings, contrastive_loss, total_steps=12)
    batches = list(islice(loader.batches(), 5))
    steps.step(batches[0], 0)  # the first one also sets up kernels and the optimizer
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number, batch in enumerate(batches[1:], start=1):
                steps.step(batch, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
    assert len(waits) == 4, [str(warning.message) for warning in waits]


@pytest.mark.parametrize("compiled", [False, True])
def test_bfloat16_training_learns_and_resumes(work: Path, tmp_path: Path, compiled: bool) -> None:
    how = {"device": "cuda", "precision": "bfloat16", "compile": compiled, "steps": 60}
    whole = run(work, tmp_path, **how)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-10:]) / 10 < 1.5 < losses[0]
    (tmp_path / "manifest.json").unlink()
    for folder in ("model", "state/step-0000060"):
        shutil.rmtree(tmp_path / folder)
    assert near(run(work, tmp_path, resume=True, **how), whole, within=2e-2)


def test_embeddings_of_captions_of_all_lengths_equal_the_processors(work: Path) -> None:
    model = tiny_run.make_model(work)
    tokens = model.tokenize(["", "red", "a red picture", "blue " * 5])
    pixels = torch.randn(5, 3, *model.config.vision.image_size)
    expected = model.encode_text(tokens, normalize=True), model.encode_image(pixels, normalize=True)
    model.to("cuda")
    assert torch.allclose(model.encode_text(tokens, normalize=True).cpu(), expected[0], atol=1e-5)
    assert torch.allclose(model.encode_image(pixels, normalize=True).cpu(), expected[1], atol=1e-5)


def test_probe_finds_the_processors_coefficients() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 3000)
    table = rng.normal(size=(7, 64))[labels] + rng.normal(size=(3000, 64))
    fits = [
        LinearProbe(C=0.5, tolerance=1e-6, device=device).fit(table, labels) for device in ("cpu", "cuda")
    ]
    assert np.allclose(fits[0].coef_, fits[1].coef_, atol=1e-4)
