"""AdamW against its formula in float64, and what decays."""

from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from torch import nn

from diptych.train.optimizer import adamw, clip_gradients, paper_constants
from diptych.train.settings import TrainSettings


def test_update_is_adamw_of_the_paper() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, written out in float64."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 4)), rng.normal(size=3)
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    optimizer = adamw(linear, weight_decay=0.2, beta1=0.9, beta2=0.98, epsilon=1e-6)
    moments = {name: [np.zeros_like(value)] * 2 for name, value in (("weight", weight), ("bias", bias))}
    values = {"weight": weight, "bias": bias}
    for step in range(1, 11):
        rate = 0.01 * step
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in linear.named_parameters():
            gradient = rng.normal(size=tuple(parameter.shape))
            parameter.grad = torch.from_numpy(gradient).float()
            first = 0.9 * moments[name][0] + 0.1 * gradient
            second = 0.98 * moments[name][1] + 0.02 * gradient**2
            moments[name] = [first, second]
            update = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.98**step)) + 1e-6)
            decay = 0.2 if name == "weight" else 0.0
            values[name] = values[name] - rate * (update + decay * values[name])
        optimizer.step()
    for name, parameter in linear.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_gains_biases_and_the_scale_do_not_decay(work: Path, kind: str) -> None:
    clip = tiny_run.make_model(work, kind=kind).clip
    decayed, others = (group["params"] for group in adamw(clip).param_groups)
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    assert len(decayed) + len(others) == len(names)
    decayed_names, other_names = {names[id(p)] for p in decayed}, {names[id(p)] for p in others}
    assert "logit_scale" in other_names
    assert not any(name.endswith("bias") for name in decayed_names)
    assert {"text.token_embedding.weight", "text.positional_embedding"} <= decayed_names
    for name, module in clip.named_modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert f"{name}.weight" in other_names
        elif isinstance(module, nn.Linear | nn.Conv2d):
            assert f"{name}.weight" in decayed_names


def test_frozen_parameters_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in adamw(module).param_groups) == 2


def test_constants_follow_the_tower_unless_given() -> None:
    assert paper_constants("resnet") == (0.999, 1e-8)
    settings = TrainSettings(steps=10, warmup_steps=1, beta2=0.95)
    expected = {"weight_decay": 0.2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
    assert settings.adamw("resnet") == expected


def test_clipping_scales_all_gradients_by_one_factor() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, None).item() == pytest.approx(5.0)
    assert clip_gradients(parameters, 2.5).item() == pytest.approx(5.0)
    assert parameters[0].grad[0].item() == pytest.approx(1.5, rel=1e-5)
    assert parameters[1].grad[0].item() == pytest.approx(2.0, rel=1e-5)
    assert clip_gradients(parameters, 10.0).item() == pytest.approx(2.5)
