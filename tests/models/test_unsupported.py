"""A whole file of a kind that we do not have is a usage error that names the kind, never "damaged"."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.published import OPEN_CLIP
from tests.peers import open_clip_merges

from diptych.core.errors import DiptychError, IntegrityError, UnsupportedError
from diptych.models.load import load

FAMILIES = (
    "align", "altclip", "blip", "chinese_clip", "clap", "clip_text_model", "clip_vision_model", "clipseg",
    "flava", "groupvit", "metaclip_2", "owlvit", "siglip2", "xclip",
)  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "convnext_base": {"vision_cfg": {"timm_model_name": "convnext_base", "image_size": 224}},
    "xlm-roberta-base": {"text_cfg": {"hf_model_name": "xlm-roberta-base", "hf_pooler_type": "mean_pooler"}},
    "CoCa": {"multimodal_cfg": {"width": 64}},
    "vision_cfg.no_ln_pre": {"vision_cfg": OPEN_CLIP["model_cfg"]["vision_cfg"] | {"no_ln_pre": True}},
    "vision_cfg.patch_size": {"vision_cfg": OPEN_CLIP["model_cfg"]["vision_cfg"] | {"patch_size": [16, 8]}},
    "vision.image_size": {"vision_cfg": OPEN_CLIP["model_cfg"]["vision_cfg"] | {"image_size": 33}},
    "text_cfg.embed_cls": {"text_cfg": OPEN_CLIP["model_cfg"]["text_cfg"] | {"embed_cls": True}},
}


def refusal(folder: Path, name: str, document: dict[str, Any]) -> DiptychError:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(document))
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(DiptychError) as error:
        load(folder)
    assert name in str(error.value) or "model.safetensors" in str(error.value)
    return error.value


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_transformers_is_named(family: str, tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING

    actual = refusal(tmp_path / "x", "config.json", CONFIG_MAPPING[family]().to_dict())
    assert isinstance(actual, UnsupportedError) and actual.exit_code == 2
    assert family in actual.found and "transformers" in actual.fix and "SigLIP" in actual.expected


@pytest.mark.parametrize("kind", OTHERS)
def test_a_family_of_open_clip_is_named(kind: str, tmp_path: Path) -> None:
    document = {"model_cfg": OPEN_CLIP["model_cfg"] | OTHERS[kind]}
    actual = refusal(tmp_path / "x", "open_clip_config.json", document)
    assert isinstance(actual, UnsupportedError) and actual.exit_code == 2
    assert kind in actual.found and "open_clip" in actual.fix and "SigLIP" in actual.expected


def test_every_configuration_that_open_clip_carries_is_read_or_named(tmp_path: Path) -> None:
    configurations = sorted((open_clip_merges().parent / "model_configs").glob("*.json"))
    read = 0
    for path in configurations:
        cfg = json.loads(path.read_text())
        actual = refusal(tmp_path / "x", "open_clip_config.json", {"model_cfg": cfg})
        # Weights of two numbers fit no model: who gets as far as them has read the configuration.
        if isinstance(actual, UnsupportedError):
            assert "open_clip" in actual.fix and actual.exit_code == 2, path.stem
            timm = cfg["vision_cfg"].get("timm_model_name", "")
            assert "siglip" not in timm or "hf_model_name" in cfg["text_cfg"], path.stem
        else:
            assert "model.safetensors" in str(actual), path.stem
            read += 1
    assert len(configurations) > 140 and read >= 72


@pytest.mark.parametrize("document", [{"model_type": 7}, {"model_type": "clip", "text_config": [1]}])
def test_what_has_wrong_types_is_damaged(document: dict[str, Any], tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path / "x", "config.json", document), IntegrityError)
