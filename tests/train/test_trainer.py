"""What the loop does when all goes well, and when it does not."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from torch import Tensor

from diptych.core.errors import EnvironmentFault, NonFiniteError, SettingsError, UsageError
from diptych.core.files.durable import operations
from diptych.core.manifest import read_manifest, verify
from diptych.core.records import Metric
from diptych.models import checkpoint
from diptych.models.model import Model
from diptych.train import state
from diptych.train.loss import contrastive_loss
from diptych.train.settings import TrainSettings
from diptych.train.steps import TrainStep, largest_logit_scale
from diptych.train.trainer import TrainResult, prepare_loader, train

KINDS = ("bool", "float", "int", "index")  # what Python makes of a tensor of one number


def run(
    work: Path,
    folder: Path,
    *,
    model: Model | None = None,
    evaluators: Sequence[Any] = (),
    resume: bool = False,
    loss: Any = contrastive_loss,
    **changes: Any,
) -> TrainResult:
    """Train the tiny model in this process."""
    settings = tiny_run.make_settings(**{"steps": 12, "save_every_steps": 5, **changes})
    model = model or tiny_run.make_model(work)
    loader = tiny_run.make_loader(work, model, settings)
    return train(model, loader, settings, run_folder=folder, evaluators=evaluators, resume=resume, loss=loss)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Breaking:
    """A loss that is not finite at the steps it is told to be."""

    def __init__(self, *steps: int, how: str = "loss") -> None:
        self.steps, self.how, self.calls = steps, how, 0

    def __call__(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        loss = contrastive_loss(image, text, scale)
        self.calls += 1
        if self.calls not in self.steps:
            return loss
        # sqrt at zero: a finite value with an infinite gradient
        return loss * math.nan if self.how == "loss" else loss + (loss - loss.detach()).abs().sqrt()


def test_run_learns_and_leaves_a_checkpoint_metrics_and_manifest(work: Path, tmp_path: Path) -> None:
    model = tiny_run.make_model(work)
    result = run(work, tmp_path, model=model, steps=60)
    assert (result.steps, result.samples_seen, result.exit_code) == (60, 480, 0)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[0]["ln_n"] == pytest.approx(math.log(8))
    # four colors among eight pairs: a perfect model is left with ln 2 per pair
    assert sum(line["loss"] for line in lines[-10:]) / 10 < 1.3 < lines[0]["loss"]
    assert result.model_folder == tmp_path / "model"
    loaded = checkpoint.load(tmp_path / "model")
    assert (loaded.digest, loaded.provenance["samples_seen"]) == (model.digest, 480)
    counts = verify(tmp_path, read_manifest(tmp_path, "run")).counts
    assert counts["in"] == counts["out"] == 480


def test_the_last_step_has_a_line_and_a_run_without_lines_is_finished_on_resume(
    work: Path, tmp_path: Path
) -> None:
    """Versions before 0.2 left the second kind: all steps saved, no metrics, no model."""
    settings = {"steps": 3, "warmup_steps": 1, "log_every": 10}
    run(work, tmp_path, **settings)
    assert [(line["step"], line["samples_seen"]) for line in lines_of(tmp_path)] == [(3, 24)]
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "manifest.json").unlink()
    assert run(work, tmp_path, **settings, resume=True).steps == 3
    assert [entry.name for entry in verify(tmp_path).outputs if "metrics" in entry.name] == []


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_step_waits_for_the_device_once(work: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Everything that reads a tensor from the host is counted, on the path that accelerators take."""
    model = tiny_run.make_model(work, kind=kind)
    settings = tiny_run.make_settings(steps=12)
    steps = TrainStep(model, settings, contrastive_loss, total_steps=12)
    loader = tiny_run.make_loader(work, model, settings)
    prepare_loader(loader, model)
    batches = list(islice(loader.batches(), 3))
    expected = contrastive_loss(*model.clip(model.normalize_pixels(batches[0].pixels), batches[0].tokens))
    reads: list[str] = []
    for name in ("item", "cpu", "tolist", "numpy", "nonzero", *(f"__{to}__" for to in KINDS)):
        read = getattr(Tensor, name)

        def counted(tensor: Tensor, *rest: Any, name: str = name, read: Any = read, **more: Any) -> Any:
            reads.append(name)
            return read(tensor, *rest, **more)

        monkeypatch.setattr(Tensor, name, counted)
    monkeypatch.setattr("diptych.train.loss._decides_on_host", lambda device: False)
    results = [steps.step(batch, number) for number, batch in enumerate(batches)]
    assert reads == ["tolist"] * 3
    monkeypatch.undo()
    assert results[0].loss == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_loaders_worker_packs_the_texts(work: Path) -> None:
    model = tiny_run.make_model(work, kind="vit")
    loader = tiny_run.make_loader(work, model, tiny_run.make_settings(), workers=1)
    prepare_loader(loader, model)
    batch = next(loader.batches())
    assert torch.equal(model.clip.encode_text(batch.packed), model.clip.encode_text(batch.tokens))


def test_a_model_of_the_sigmoid_loss_is_not_trained_with_the_softmax_loss(work: Path, tmp_path: Path) -> None:
    model = tiny_run.make_model(work, kind="vit")
    model.config = replace(model.config, logit_bias_init=-10.0)
    with pytest.raises(SettingsError, match="sigmoid loss"):
        run(work, tmp_path, model=model)
    assert not any(tmp_path.iterdir())


def test_device_that_is_not_here_is_refused_before_anything_is_written(work: Path, tmp_path: Path) -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(SettingsError, match=r"(?s)train\.device.*auto"):
            run(work, tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


@pytest.mark.deep
def test_compiled_run_is_the_plain_one_up_to_rounding(work: Path, tmp_path: Path) -> None:
    models = [tiny_run.make_model(work, kind="vit") for _ in range(2)]
    for model, compiled in zip(models, (True, False), strict=True):
        run(work, tmp_path / str(compiled), model=model, compile=compiled)
    states = [model.clip.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_step_that_is_not_finite_changes_nothing_and_is_counted(work: Path, tmp_path: Path, how: str) -> None:
    """A bad first step must leave the weights and BatchNorm's running statistics as they were."""
    model = tiny_run.make_model(work)
    before = {name: tensor.clone() for name, tensor in model.clip.state_dict().items()}
    result = run(work, tmp_path, model=model, steps=2, warmup_steps=1, loss=Breaking(1, 2, how=how))
    assert result.skipped_steps == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.clip.state_dict().items())
    assert [line["skipped"] for line in lines_of(tmp_path)] == [1, 2]


def test_run_goes_on_after_a_bad_step(work: Path, tmp_path: Path) -> None:
    result = run(work, tmp_path, loss=Breaking(3, 4, 7, 8))
    assert (result.steps, result.skipped_steps) == (12, 4)


def test_three_bad_steps_in_a_row_stop_the_run_and_name_the_samples(work: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="3 steps in a row") as caught:
        run(work, tmp_path, loss=Breaking(7, 8, 9))
    assert caught.value.exit_code == 3
    bad = json.loads((tmp_path / "bad_batch.json").read_text())
    assert bad["step"] == 9
    assert len(bad["keys"]) == 8
    found = state.latest(tmp_path / "state", lambda _: None)
    assert found is not None
    assert found.name == "step-0000005"


def test_scale_stays_between_one_and_its_limit_and_can_leave_it(work: Path, tmp_path: Path) -> None:
    """float32's ln 100 has the exponential 100.00001: clamped there, the scale never got a gradient again."""
    model = tiny_run.make_model(work)
    with torch.no_grad():
        model.clip.logit_scale.fill_(largest_logit_scale(100.0))

    def push(*embeds: Tensor) -> Tensor:
        return contrastive_loss(*embeds) - 10 * embeds[2]

    def pull(*embeds: Tensor) -> Tensor:
        return contrastive_loss(*embeds) + 10 * embeds[2]

    run(work, tmp_path / "up", model=model, loss=push)
    assert 99.99 < model.clip.logit_scale.exp().item() <= 100.0
    run(work, tmp_path / "down", model=model, loss=pull)
    assert model.clip.logit_scale.exp().item() < 99.9
    with torch.no_grad():
        model.clip.logit_scale.fill_(6.0)  # as others' models come: training starts at its bound
    run(work, tmp_path / "loaded", model=model, loss=pull)
    assert model.clip.logit_scale.exp().item() < 99.9
    with torch.no_grad():
        model.clip.logit_scale.fill_(0.0)
    run(work, tmp_path / "floor", model=model, loss=pull)
    assert model.clip.logit_scale.item() == 0.0


def test_evaluators_are_called_when_due_and_at_the_end(work: Path, tmp_path: Path) -> None:
    modes: list[bool] = []

    class Watch:
        name = "watch"

        def __call__(self, model: Model) -> list[Metric]:
            modes.append(model.clip.training)
            return [Metric("watch", "calls", float(len(modes)), None, 1)]

    model = tiny_run.make_model(work)
    result = run(work, tmp_path / "a", model=model, evaluators=[Watch()], evaluate_every_steps=5)
    evaluations = [line for line in lines_of(tmp_path / "a") if "evaluation" in line]
    assert [line["step"] for line in evaluations] == [5, 10, 12]
    assert modes == [False] * 3
    assert result.metrics == (Metric("watch", "calls", 3.0, None, 1),)
    alone = tiny_run.make_model(work)
    run(work, tmp_path / "b", model=alone)
    assert alone.digest == model.digest, "evaluating changed the training"


def test_what_a_finished_run_may_be_resumed_with(work: Path, tmp_path: Path) -> None:
    first, folder = run(work, tmp_path / "run"), tmp_path / "run"
    with pytest.raises(UsageError, match="holds a run already"):
        run(work, folder)
    before = (folder / "metrics.jsonl").read_bytes()
    again = run(work, folder, resume=True)
    assert (again.steps, again.model_folder) == (first.steps, first.model_folder)
    assert (folder / "metrics.jsonl").read_bytes() == before
    for name, value in (("learning_rate", 1e-4), ("batch_size", 10)):
        with pytest.raises(SettingsError, match=rf"train\.{name}") as caught:
            run(work, folder, resume=True, **{name: value})
        assert "data.digest" not in str(caught.value)
    tiny_run.make_data(tmp_path, count=30)
    with pytest.raises(SettingsError, match=r"data\.digest"):
        run(tmp_path, folder, resume=True, model=tiny_run.make_model(work))


def test_full_disk_during_a_save_does_not_stop_training(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIPTYCH_TESTING", "1")
    monkeypatch.setenv("DIPTYCH_FAILPOINT", f"enospc:{operations() + 16}")
    reference = tiny_run.make_model(work)
    result = run(work, tmp_path / "a", model=reference)
    assert result.exit_code == 0
    assert "could not save at step 5, training goes on" in capsys.readouterr().err


def test_third_failed_save_in_a_row_stops_the_run(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise EnvironmentFault("cannot write", found="no space left on device")

    monkeypatch.setattr(state, "save", full)
    with pytest.raises(EnvironmentFault):
        run(work, tmp_path, save_every_steps=2)
    assert lines_of(tmp_path)[-1]["step"] == 6


def test_loader_and_run_must_agree(work: Path, tmp_path: Path) -> None:
    model, settings = tiny_run.make_model(work), tiny_run.make_settings()
    loader = tiny_run.make_loader(work, model, tiny_run.make_settings(seed=4))
    with pytest.raises(SettingsError, match="disagree on seed"):
        train(model, loader, settings, run_folder=tmp_path)


def test_run_that_learns_nothing_is_told_so_once(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diptych.train.metrics_log.STALL_STEPS", 2)
    run(work, tmp_path, learning_rate=1e-12)
    assert capsys.readouterr().err.count("nothing is being learnt") == 1


def test_a_busy_machine_is_told_once_and_logged(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scheduler says that the main thread waited nine tenths of the time."""
    started, waited = time.monotonic(), "diptych.train.metrics_log.seconds_waited"
    for name, clock, expected, warnings in (
        ("busy", lambda: 0.9 * (time.monotonic() - started), 0.9, 1),
        ("unknown", lambda: None, None, 0),
    ):
        monkeypatch.setattr(waited, clock)
        run(work, tmp_path / name, steps=4, warmup_steps=1)
        told = capsys.readouterr().err
        assert told.count("the machine is busy: ") == warnings
        assert ("CPU wait" in told) == bool(warnings)
        for line in lines_of(tmp_path / name):
            assert line["cpu_wait_fraction"] == (expected and pytest.approx(expected, abs=0.11))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"steps": 1, "epochs": 1.0}, {"steps": 0}, {"steps": 5, "batch_size": 0}, {"steps": 5, "keep": 0},
     {"samples": 1000, "batch_size": 100, "warmup_steps": 10}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"given once|too small|before its warm-up"):
        TrainSettings(**wrong).total_steps(5000)


def test_bfloat16_towers_keep_a_float32_loss(work: Path, tmp_path: Path) -> None:
    kinds = []

    def watch(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        loss = contrastive_loss(image, text, scale)
        kinds.append((loss.dtype, scale.dtype))
        return loss

    model = tiny_run.make_model(work, kind="vit")
    run(work, tmp_path, model=model, precision="bfloat16", loss=watch)
    assert set(kinds) == {(torch.float32, torch.float32)}
    assert all(parameter.dtype == torch.float32 for parameter in model.clip.parameters())


def test_a_run_that_stops_early_is_the_beginning_of_the_whole_one(work: Path, tmp_path: Path) -> None:
    """Otherwise a comparison at equal samples would compare two schedules."""
    run(work, tmp_path / "whole", log_every=1)
    part = run(work, tmp_path / "part", log_every=1, stop_after_samples=50)
    assert (part.steps, part.samples_seen, part.exit_code) == (7, 56, 0)
    told = [line["loss"] for line in lines_of(tmp_path / "part") if "loss" in line]
    assert told == [line["loss"] for line in lines_of(tmp_path / "whole") if "loss" in line][:7]
    assert part.model_folder is not None
