"""Saved states: complete or absent at every crash point, refused when damaged, exact when restored."""

import os
import random
import shutil
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import tiny_run
import torch
from torch import nn

from diptych.core.errors import EnvironmentFault, IntegrityError, SettingsError
from diptych.core.files.durable import KILLED, TEMP_PREFIX, operations
from diptych.core.manifest import verify
from diptych.train import state
from diptych.train.optimizer import adamw
from diptych.train.state import Counters, Facts


def stepped(seed: int, steps: int) -> tuple[nn.Module, torch.optim.AdamW]:
    """A small network with BatchNorm after some steps."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = adamw(module)
    for number in range(steps):
        advance(module, optimizer, number)
    return module, optimizer


def advance(module: nn.Module, optimizer: torch.optim.AdamW, number: int) -> float:
    generator = torch.Generator().manual_seed(number)
    loss = module(torch.randn(5, 3, 4, 4, generator=generator)).square().mean()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.item())


def facts(step: int) -> Facts:
    machine = state.machine_facts(torch.device("cpu"))
    return Facts(Counters(step=step, losses=(0.1, 1 / 3)), {"train": {"seed": 1}}, machine)


def quiet(_: str) -> None:
    """A log nobody reads."""


def save_three(folder: Path, failpoint: str) -> None:
    """In a process of its own: save steps 1, 2 and 3, keeping two; `failpoint` ends it on the way."""
    module, optimizer = stepped(0, 2)
    os.environ.update(DIPTYCH_TESTING="1", DIPTYCH_FAILPOINT=failpoint)
    for step in (1, 2, 3):
        state.save(folder, module, optimizer, facts(step), keep=2)


def test_restored_network_goes_on_bit_by_bit(tmp_path: Path) -> None:
    module, optimizer = stepped(0, 3)
    saved = state.save(tmp_path, module, optimizer, facts(3), keep=2)
    assert state.load_facts(saved) == facts(3)
    other, other_optimizer = stepped(9, 0)
    state.restore(saved, other, other_optimizer)
    for number in range(3, 7):
        assert advance(module, optimizer, number) == advance(other, other_optimizer, number)
    for (name, mine), theirs in zip(module.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    module, optimizer = stepped(0, 1)
    for step in (9, 10, 11, 100):
        state.save(tmp_path, module, optimizer, facts(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000011", "step-0000100"]


@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.deep)])
def test_every_crash_point_leaves_a_whole_state(
    fast_path: Path, start: Callable[..., BaseProcess], every: int
) -> None:
    """Ends the process at each durable step of three saves with pruning: the newest whole state stays."""
    module, optimizer = stepped(0, 1)
    ends = []
    before = operations()
    for step in (1, 2, 3):
        state.save(fast_path / "counted", module, optimizer, facts(step), keep=2)
        ends.append(operations() - before)
    for point in range(1, ends[-1] + 1, every):
        folder = fast_path / f"crash-{point}"
        process = start(tiny_run.call, __file__, "save_three", folder, f"exit:{point}")
        process.join(250)
        assert process.exitcode == KILLED
        whole = [path for path in folder.glob("step-*") if (path / "manifest.json").exists()]
        found = state.latest(folder, quiet)
        assert (found is None) == (not whole)
        if found is not None:
            verify(found)
            assert found == max(whole)
            step = state.load_facts(found).counters.step
            assert step >= sum(point > end for end in ends), "a state that was reported as saved is lost"
        else:
            assert point <= ends[0]
        assert not list(folder.glob(f"{TEMP_PREFIX}*"))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_state_falls_back_to_the_one_before(fast_path: Path, name: str, damage: str) -> None:
    module, optimizer = stepped(0, 1)
    older = state.save(fast_path, module, optimizer, facts(1), keep=2)
    newer = state.save(fast_path, module, optimizer, facts(2), keep=2)
    dice = random.Random(name + damage)
    whole = (newer / name).read_bytes()
    for _ in range(5):
        data = bytearray(whole)
        if damage == "flip":
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        (newer / name).write_bytes(data[: dice.randrange(len(data))] if damage == "cut" else data)
        if damage == "gone":
            (newer / name).unlink()
        said: list[str] = []
        assert state.latest(fast_path, said.append) == older
        if (name, damage) != ("manifest.json", "gone"):
            assert "step-0000002 cannot be used" in said[0]


def test_all_states_damaged_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    saved = state.save(tmp_path, *stepped(0, 1), facts(1), keep=2)
    (saved / "state.safetensors").write_bytes(b"short")
    with pytest.raises(IntegrityError, match="every saved state of this run is damaged") as caught:
        state.latest(tmp_path, quiet)
    assert "state.safetensors" in str(caught.value)


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    saved = state.save(tmp_path, *stepped(0, 1), facts(1), keep=2)
    other = nn.Sequential(nn.Conv2d(3, 5, 3))
    with pytest.raises(IntegrityError, match="not one of this model") as caught:
        state.restore(saved, other, adamw(other))
    assert "weights/0.weight" in str(caught.value)


def test_full_disk_keeps_the_states_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = stepped(0, 1)
    older = state.save(tmp_path, module, optimizer, facts(1), keep=1)
    for later in (3, 7, 12):
        with monkeypatch.context() as patch:
            patch.setenv("DIPTYCH_TESTING", "1")
            patch.setenv("DIPTYCH_FAILPOINT", f"enospc:{operations() + later}")
            with pytest.raises(EnvironmentFault):
                state.save(tmp_path, module, optimizer, facts(2), keep=1)
        assert state.latest(tmp_path, quiet) == older


def test_difference_is_named() -> None:
    saved = {"train": {"seed": 1, "batch_size": 8}, "data": {"digest": "a"}}
    state.require_same(saved, {"data": {"digest": "a"}, "train": {"batch_size": 8, "seed": 1}}, where="run")
    other = {"train": {"seed": 2, "batch_size": 8}, "data": {"digest": "a"}}
    with pytest.raises(SettingsError, match=r"another train\.seed") as caught:
        state.require_same(saved, other, where="run")
    assert "found train.seed = 2, expected train.seed = 1" in str(caught.value)
