"""What open_clip wrote loads as the same model; what we wrote is loaded by open_clip's own loader."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.peers import open_clip_merges, run_peer
from torch.nn import functional as F

from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.formats.convert import convert
from diptych.models.load import load
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, TextConfig, VitConfig
from diptych.models.verification import CAPTIONS, reference_images

SIDE = Path(__file__).parent / "peers" / "open_clip_files.py"
TOLERANCE = 1e-5

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
PAPER = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
SHORTEST = {"interpolation": "bicubic", "resize_mode": "shortest"}
VIT = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}
WIDE = {"image_size": 48, "layers": 2, "width": 88, "head_width": 44, "mlp_ratio": 4.3637, "patch_size": 16}


def setup(vision: dict[str, Any], preprocess: dict[str, Any], **model: Any) -> dict[str, Any]:
    model_cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, **model}
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess, "archive": not model.get("custom_text")}


SETUPS = {
    "vit-gelu-wide": setup(WIDE, HALF | SHORTEST),
    "vit-oblong-squash": setup(
        VIT | {"image_size": [32, 48]}, HALF | {"interpolation": "bilinear", "resize_mode": "squash"}
    ),
    "vit-custom-text": setup(VIT, PAPER | SHORTEST, quick_gelu=True, custom_text=True),
}


def peer(command: str, folder: Path) -> dict[str, torch.Tensor]:
    run_peer(SIDE, command, folder)
    return load_file(folder / "out.safetensors")


def ask(folder: Path, size: tuple[int, int]) -> None:
    for number, image in enumerate(reference_images(size)):
        Image.fromarray(image).save(folder / f"image_{number}.png")
    (folder / "captions.json").write_text(json.dumps(CAPTIONS))


def compare(model: Model, folder: Path, theirs: dict[str, torch.Tensor], name: str) -> None:
    images = [Image.open(path) for path in sorted(folder.glob("image_*.png"))]
    pixels = model.preprocess_images(images)
    tokens = model.tokenize(CAPTIONS)
    shown = (pixels - theirs["pixels"]).abs().max().item()
    assert shown < 2e-6, "pixels: rounding of the normalisation alone"
    end = np.arange(tokens.shape[1]) <= (tokens == model.config.text.end_id).int().argmax(1)[:, None].numpy()
    assert torch.equal(
        tokens.where(torch.from_numpy(end), 0), theirs["tokens"].where(torch.from_numpy(end), 0)
    )
    assert torch.equal(model.clip.logit_scale.detach(), theirs["logit_scale"].reshape(()))
    for kind, ours in (
        ("image", model.encode_image(pixels, normalize=True)),
        ("text", model.encode_text(tokens, normalize=True)),
    ):
        expected = F.normalize(theirs[f"{kind}_features"], dim=-1)
        assert (expected[0] - expected[1]).abs().max() > 1e-3, "the tower looks at its input"
        difference = (ours - expected).abs().max().item()
        print(f"{name} {kind}: {difference:.2e}")
        assert difference < TOLERANCE


@pytest.mark.deep
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SETUPS)
def test_open_clips_files_are_read_and_ours_are_read_by_open_clip(name: str, tmp_path: Path) -> None:
    given = SETUPS[name]
    size = given["model_cfg"]["vision_cfg"]["image_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    tokenizer = Tokenizer.from_merges(open_clip_merges(), context_length=24)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "setup.json").write_text(json.dumps(given))
    ask(tmp_path, size)
    theirs = peer("write", tmp_path)

    hub = load(tmp_path / "hub")
    compare(hub, tmp_path, theirs, f"{name} hub")
    compare(load(tmp_path / "plain", tokenizer=tmp_path / "tokenizer"), tmp_path, theirs, f"{name} plain")
    alone = {"tokenizer": tokenizer, "preprocess": hub.preprocess, "config": given["model_cfg"]}
    train = load(tmp_path / "train" / "epoch_1.pt", **alone)
    compare(train, tmp_path, theirs, f"{name} training checkpoint")

    for to in ("open_clip", "diptych"):
        out = tmp_path / to
        out.mkdir()
        ask(out, size)
        report = convert(hub, out / "model", to)
        assert report["token_ids_equal"] and report["image_embeds"]["max_difference"] == 0
        if to == "open_clip":
            read = peer("read", out)
            compare(hub, out, read, f"{name} → {to}, read by open_clip")
            assert torch.equal(read["pixels"], theirs["pixels"])
        else:
            compare(load(out / "model"), out, theirs, f"{name} → {to}")


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_open_clip_reads_a_vocabulary_that_is_not_openais(tmp_path: Path) -> None:
    words = Tokenizer.train(
        ["a red circle above two blue squares", *CAPTIONS] * 3, size=700, context_length=24
    )
    text = TextConfig(24, words.vocab_size, 64, 2, 4, words.start_id, words.end_id)
    config = ClipConfig(40, VitConfig((32, 32), 8, 48, 2, 4, 3.1), text, "gelu", layer_norm_eps=1e-6)
    model = Model(build(config, seed=0), words, Preprocess(size=(32, 32)))
    ask(tmp_path, (32, 32))
    convert(model, tmp_path / "model", "open_clip")
    compare(model, tmp_path, peer("read", tmp_path), "own vocabulary → open_clip, read by open_clip")
