"""What a reference means is found without the network; what is mistyped is refused with the nearest name."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.export.small import small_model

from diptych.core.errors import UsageError
from diptych.models import checkpoint
from diptych.models.formats.references import public_names, resolve
from diptych.models.load import load


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B/32", "timm/vit_base_patch32_clip_224.openai"),
        ("ViT-L/14@336px", "timm/vit_large_patch14_clip_336.openai"),
        ("RN50x64", "timm/resnet50x64_clip.openai"),
        ("ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("google/siglip2-base-patch16-224", "google/siglip2-base-patch16-224"),
        ("openai/clip-vit-base-patch32@abc", "openai/clip-vit-base-patch32"),
        ("hf-hub:ViT-B-32/mine", "ViT-B-32/mine"),
    ],
)
def test_public_names_openais_names_and_hub_ids(name: str, expected: str) -> None:
    assert resolve(name).repository == expected


def test_no_repository_of_the_table_is_taken_for_a_mistyped_name() -> None:
    for row in public_names().values():
        assert resolve(row.repository).repository == row.repository


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ViT-B-32/laion2b_s34b_b79", "ViT-B-32/laion2b_s34b_b79k"),
        ("vit-l-14/laion2B_s32B_b82k", "ViT-L-14/laion2b_s32b_b82k"),
        ("ViTB32/openai", "ViT-B-32/openai"),
        ("ViT-L/14@336", "ViT-L/14"),
        ("runs/mime", "runs/mine"),
        ("run/mine", "runs/mine"),
        ("runs/other", "hf-hub:runs/other"),
        ("weights/epoch_32.pt", "hf-hub:weights/epoch_32.pt"),
        ("mime.pt", "mine.pt"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_nearest_before_the_network_is_asked(
    name: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "mine.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no model by this name") as error:
        load(name)
    assert f"did you mean {meant!r}?" in error.value.fix


@pytest.mark.parametrize("name", ["x" * 6000, "a\0b/c", "../missing/folder/deep", "/no/such"])
def test_what_is_neither_is_refused_shortly(name: str) -> None:
    with pytest.raises(UsageError, match="no model by this name") as error:
        load(name)
    assert len(str(error.value)) < 1500


def test_a_wrong_path_costs_no_import_of_torch() -> None:
    code = (
        "import sys, diptych\ntry: diptych.load('no/such/folder')\n"
        "except diptych.DiptychError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_says_what_it_is(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "mine", small_model())
    stated = repr(load(tmp_path / "mine"))
    parts = ("Model", "vit image tower", "32x48 pixels", "16 tokens", "48 dimensions", "quick_gelu", "cpu")
    assert all(part in stated for part in parts)
    assert len(stated) < 300 and "0x" not in stated
