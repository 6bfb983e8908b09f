"""Weights as trainers leave them: under a key or a prefix, in shards, with a bias, beside other tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.published import ALONE, agrees, open_clip_folder, theirs
from tests.models.test_transformers_files import clip_model, compare, processor, saved

from diptych.core.errors import DiptychError, UsageError
from diptych.models.formats.convert import convert
from diptych.models.load import load

GIVEN: dict[str, Any] = {"activation": "quick_gelu", **ALONE}


def named(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in theirs().items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
SAVED = {
    "model": ({"model": theirs(), "optimizer": OPTIMIZER, "epoch": 3}, "model"),
    "Lightning": ({"state_dict": named("model."), "epoch": 3, "global_step": 7}, "state_dict, model."),
    "a prefix": (named("clip_model."), "clip_model."),
    "a wrapped one": ({"model": named("module.model."), "args": {"lr": 0.1}}, "model, module.model."),
    "open_clip": (
        {"state_dict": named("module."), "state_dict_ema": named("module.")},
        "state_dict, module.",
    ),
    "custom text": ({"net": named("_orig_mod.")}, "net, _orig_mod."),
}


@pytest.mark.parametrize("name", SAVED)
def test_the_one_clip_in_a_file_is_found_and_named(name: str, tmp_path: Path) -> None:
    saved_as, taken = SAVED[name]
    torch.save(saved_as, tmp_path / "a.pt")
    model = load(tmp_path / "a.pt", **GIVEN)
    agrees(model)
    assert model.provenance["taken_from"] == taken


@pytest.mark.parametrize(
    ("saved_as", "stated"),
    [
        ({"model": theirs(), "ema": theirs()}, ("model", "ema")),
        (named("student.") | named("teacher."), ("student.", "teacher.")),
        (named("model.") | {"loss.weight": torch.ones(2)}, ("model.", "loss.weight")),
    ],
)
def test_two_clips_or_one_beside_other_tensors_are_refused_by_name(
    saved_as: Any, stated: tuple[str, ...], tmp_path: Path
) -> None:
    torch.save(saved_as, tmp_path / "a.pt")
    with pytest.raises(UsageError) as error:
        load(tmp_path / "a.pt", **GIVEN)
    assert all(name in error.value.found for name in stated) and error.value.fix


def test_shards_keep_the_prefix_of_their_index(tmp_path: Path) -> None:
    model = clip_model()
    folder = saved(tmp_path / "clip", model)
    (folder / "model.safetensors").unlink()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state, max_shard_size="100KB")
    assert (folder / "model.safetensors.index.json").is_file()
    compare(load(folder), model, processor(folder))


def with_bias(folder: Path, **model_cfg: Any) -> Path:
    open_clip_folder(folder, lambda document: document["model_cfg"].update(model_cfg))
    state = theirs() | {"logit_bias": torch.tensor([-9.5])}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def test_a_clip_that_learned_with_the_sigmoid_loss_has_its_bias(tmp_path: Path) -> None:
    """open_clip's ``--siglip``: CLIP's towers, and a bias that its logits add."""
    model = load(with_bias(tmp_path / "hub", init_logit_bias=-10))
    agrees(model)
    assert model.bias == -9.5 and model.config.logit_bias_init == -10
    logits = torch.tensor([[3.0, -1.0]])
    assert torch.equal(torch.as_tensor(model.probabilities(logits)), logits.sigmoid())
    for to in ("diptych", "open_clip"):
        convert(model, tmp_path / to, to)
        assert load(tmp_path / to).bias == -9.5
    for to in ("openai", "transformers"):
        with pytest.raises(DiptychError, match="logit_bias"):
            convert(model, tmp_path / to, to)


def test_a_bias_is_found_in_weights_alone(tmp_path: Path) -> None:
    folder = with_bias(tmp_path / "hub")
    assert load(folder).bias == -9.5
    torch.save(theirs() | {"logit_bias": torch.tensor(-9.5)}, tmp_path / "alone.pt")
    assert load(tmp_path / "alone.pt", **GIVEN).bias == -9.5
