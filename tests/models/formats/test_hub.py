"""References: what is on disk, in the hub's cache and in the table of public names."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.models.published import WORDS, agrees, cached, open_clip_folder, openai_clip, write_archive

from diptych.core.errors import EnvironmentFault, IntegrityError, UsageError
from diptych.models.formats import references
from diptych.models.formats.hub import Hub
from diptych.models.load import load


def test_a_reference_to_nothing_says_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ViT-B-32/openai"):
        load("ViT-B-32-openai")
    with pytest.raises(UsageError, match="no model by this name"):
        load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"open_clip_config\.json"):
        load(tmp_path / "empty")


def in_cache(tmp_path: Path, repository: str, **changes: Any) -> Hub:
    made = open_clip_folder(
        tmp_path / f"made-{len(list(tmp_path.iterdir()))}", lambda d: d["model_cfg"].update(changes)
    )
    cached(tmp_path / "cache", repository, {path.name: path.read_bytes() for path in made.iterdir()})
    return Hub(cache_dir=tmp_path / "cache", local_files_only=True)


def test_a_hub_id_is_loaded_from_one_commit_that_is_recorded(tmp_path: Path) -> None:
    cache = in_cache(tmp_path, "someone/clip-small")
    for ref in ("someone/clip-small", "hf-hub:someone/clip-small", f"someone/clip-small@{'c' * 40}"):
        actual = load(ref, hub=cache)
        agrees(actual)
        assert actual.provenance["source"] == ref
        assert actual.provenance["repository"] == "someone/clip-small"
        assert actual.provenance["revision"] == "c" * 40
        assert all(len(entry["sha256"]) == 64 for entry in actual.provenance["files"])
    with pytest.raises(EnvironmentFault, match="not in the cache"):
        load("someone/clip-small@another", hub=cache)
    with pytest.raises(EnvironmentFault, match="not in the cache"):
        load("someone/else", hub=cache)


def test_a_changed_file_in_the_cache_is_found_by_its_digest(tmp_path: Path) -> None:
    cache = in_cache(tmp_path, "someone/clip-small")
    (weights,) = (tmp_path / "cache").rglob("open_clip_model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.resolve().write_bytes(data)
    with pytest.raises(IntegrityError, match=r"open_clip_model\.safetensors(.|\n)*delete this file"):
        load("someone/clip-small", hub=cache)


def test_a_public_short_name_is_held_against_its_row(tmp_path: Path) -> None:
    cache = in_cache(tmp_path, "timm/vit_base_patch32_clip_224.openai")
    agrees(load("ViT-B-32/openai", hub=cache))
    cache = in_cache(tmp_path, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    with pytest.raises(IntegrityError, match="activation") as error:
        load("ViT-B-32/laion2b_s34b_b79k", hub=cache)
    assert "hf-hub:laion" in str(error.value)
    cache = in_cache(tmp_path, "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", quick_gelu=False)
    with pytest.raises(IntegrityError, match="preprocessing"):
        load("ViT-L-14/laion2b_s32b_b82k", hub=cache)
    load("hf-hub:laion/CLIP-ViT-L-14-laion2B-s32B-b82K", hub=cache)


@pytest.mark.parametrize("failure", ["LocalEntryNotFoundError", "OSError"])
def test_an_unreachable_hub_is_no_missing_model(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import errors

    def fail(*_: object, **__: object) -> str:
        raise getattr(errors, failure, OSError)("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(EnvironmentFault, match="cannot be reached"):
        load("someone/clip-small", hub=Hub(cache_dir=tmp_path))


ACTIVATIONS = {
    "ViT-B-32/laion2b_s34b_b79k": "gelu", "ViT-B-32/laion400m_e32": "quick_gelu",
    "ViT-B-16/laion400m_e32": "gelu", "ViT-B-32/metaclip_400m": "quick_gelu",
    "ViT-L-14/metaclip_400m": "quick_gelu", "ViT-H-14/metaclip_altogether": "gelu",
    "ViT-L-14/dfn2b": "quick_gelu", "ViT-L-14/dfn2b_s39b": "gelu",
}  # fmt: skip


def test_the_table_agrees_with_the_facts_it_was_made_from() -> None:
    rows = references.public_names()
    assert {name: rows[name].activation for name in ACTIVATIONS} == ACTIVATIONS
    assert rows["ViT-H-14/dfn5b"].preprocess == "clip-squash"
    assert rows["ViT-L-14/laion2b_s32b_b82k"].preprocess == "half"
    assert rows["ViT-L-14-336/openai"].imagenet == 76.2
    assert rows["ViT-B-32/laion2b_s34b_b79k"].imagenet == 66.56
    openai = [row for name, row in rows.items() if name.endswith("/openai")]
    assert len(openai) == 9 and all(len(row.openai) == 64 for row in openai)
    for name, row in rows.items():
        assert ("SigLIP" in name) == (row.activation is None) == (row.preprocess == "siglip"), name
        references.named_preprocess(row.preprocess, (224, 224))


def test_a_file_that_openai_published_is_recognised_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "any.pt", openai_clip())
    digest = hashlib.sha256((tmp_path / "any.pt").read_bytes()).hexdigest()
    assert "published_as" not in load(tmp_path / "any.pt", tokenizer=WORDS).provenance
    row = references.PublicName("a/b", "clip", "quick_gelu", openai=digest)
    monkeypatch.setattr(references, "public_names", lambda: {"ViT-B-32/openai": row})
    assert load(tmp_path / "any.pt", tokenizer=WORDS).provenance["published_as"] == "ViT-B-32/openai"
