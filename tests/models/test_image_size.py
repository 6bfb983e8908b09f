"""Models at another image size: positions as open_clip stretches them, everything else as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.published import WORDS, open_clip_folder, openai_clip
from tests.models.test_open_clip_files import PAPER, SHORTEST, ask, compare, peer, setup
from tests.peers import open_clip_merges
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import UsageError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.assemble import at_image_size
from diptych.models.load import load
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig


def by_open_clips_formula(state: dict[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Do what open_clip 3.3's `resize_pos_embed` does to 2 x 2 positions behind a class token."""
    token, image = state["visual.positional_embedding"].split([1, 4])
    image = image.reshape(1, 2, 2, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
    image = image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)[0]
    return state | {"visual.positional_embedding": torch.cat([token, image])}


@pytest.mark.parametrize(("size", "grid"), [(64, (4, 4)), (16, (1, 1)), ((48, 80), (3, 5))])
def test_a_vit_reads_images_of_other_sizes_as_in_open_clip(size: Any, grid: Any, tmp_path: Path) -> None:
    ours = load(open_clip_folder(tmp_path / "hub"), image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert ours.preprocess == Preprocess((height, width)) and ours.config.vision.grid == grid
    theirs = openai_clip()
    state = by_open_clips_formula(dict(theirs.state_dict()), grid)
    theirs.visual.positional_embedding = torch.nn.Parameter(state["visual.positional_embedding"])
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = F.normalize(theirs.visual(pixels), dim=-1)
    assert (ours.encode_image(pixels, normalize=True) - expected).abs().max() < 1e-5
    assert ours.provenance["positions_stretched_from"] == [32, 32]


def test_the_own_size_changes_nothing(tmp_path: Path) -> None:
    model = load(open_clip_folder(tmp_path / "hub"))
    assert at_image_size(model, 32) is model
    wide = at_image_size(model, 64)
    assert model.config.vision.image_size == (32, 32), "the given model stays as it is"
    assert wide.clip.text.ln_final.weight.data_ptr() == model.clip.text.ln_final.weight.data_ptr()


def test_sizes_that_no_patch_fits_and_towers_without_patches_are_refused(tmp_path: Path) -> None:
    model = load(open_clip_folder(tmp_path / "hub"))
    for size in (40, 8, (32, 32, 32), 0, "64", 2**30):
        with pytest.raises(UsageError):
            at_image_size(model, size)  # type: ignore[arg-type]
    text = TextConfig(20, WORDS.vocab_size, 64, 1, 1, WORDS.start_id, WORDS.end_id)
    config = ClipConfig(24, ResNetConfig((64, 64), (1, 1, 1, 1), 8, 4), text)
    with pytest.raises(UsageError, match="ModifiedResNet"):
        at_image_size(Model(build(config, seed=0), WORDS, Preprocess((64, 64))), 96)


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_open_clip_with_force_image_size_gives_the_same(tmp_path: Path) -> None:
    given = setup(
        {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}, PAPER | SHORTEST, quick_gelu=True
    )
    (tmp_path / "setup.json").write_text(json.dumps(given))
    (tmp_path / "tokenizer").mkdir()
    Tokenizer.from_merges(open_clip_merges(), context_length=24).save(tmp_path / "tokenizer")
    ask(tmp_path, (48, 48))
    peer("write", tmp_path)
    (tmp_path / "hub").rename(tmp_path / "model")
    (tmp_path / "force_image_size").write_text("48")
    compare(load(tmp_path / "model", image_size=48), tmp_path, peer("read", tmp_path), "48 for 32")
