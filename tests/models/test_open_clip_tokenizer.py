"""Clean-up and tokenizer settings of open_clip's configurations: followed as there, or refused by name."""

from pathlib import Path
from typing import Any

import pytest
from tests.models.published import agrees, open_clip_folder

from diptych.core.errors import UsageError
from diptych.models.formats.open_clip import stated_cleaning
from diptych.models.load import load


def folder(path: Path, **text: Any) -> Path:
    return open_clip_folder(path, lambda document: document["model_cfg"]["text_cfg"].update(text))


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ({"tokenizer_kwargs": {"clean": "canonicalize"}}, "clean"),
        ({"tokenizer_kwargs": {"clean": "whitespace"}}, "clean"),  # SimpleTokenizer leaves capitals then
        ({"tokenizer_kwargs": {"clean": "canonicalize"}, "hf_tokenizer_name": "local"}, "clean"),
        ({"tokenizer_kwargs": {"reduction_mask": "simple"}}, "reduction_mask"),
        ({"tokenizer_kwargs": {"reduction_mask": "syntax"}}, "reduction_mask"),
        ({"tokenizer_kwargs": {"strip_sep_token": True}, "hf_tokenizer_name": "local"}, "strip_sep_token"),
        ({"tokenizer_kwargs": {"additional_special_tokens": ["<cat>"]}}, "additional_special_tokens"),
        ({"tokenizer_kwargs": {"language": "de"}}, "language"),
        ({"tokenizer_mode": "clips"}, "tokenizer_mode"),
    ],
)
def test_other_tokenizers_are_refused_by_name(text: dict[str, Any], stated: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=stated):
        load(folder(tmp_path / "hub", **text))


@pytest.mark.parametrize(
    "text",
    [
        {"tokenizer_kwargs": {"clean": "lower", "reduction_mask": ""}},
        {"tokenizer_kwargs": None, "tokenizer_mode": None},
        {"tokenizer_kwargs": {"clean": "whitespace"}, "hf_tokenizer_name": "local"},  # its file lower-cases
        {"tokenizer_kwargs": {"clean": "lower", "strip_sep_token": False}, "hf_tokenizer_name": "local"},
    ],
)
def test_what_gives_the_same_ids_is_no_obstacle(text: dict[str, Any], tmp_path: Path) -> None:
    agrees(load(folder(tmp_path / "hub", **text)))


def test_siglips_clean_up_is_followed_or_refused(tmp_path: Path) -> None:
    def of(**options: Any) -> Any:
        vision = {"timm_model_name": "vit_base_patch16_siglip_224"}
        return stated_cleaning({"vision_cfg": vision, "text_cfg": {"tokenizer_kwargs": options}}, tmp_path)

    assert of(clean="canonicalize") == "open_clip"
    for options in ({"clean": "lower"}, {}, {"clean": "canonicalize", "strip_sep_token": True}):
        with pytest.raises(UsageError, match="strip_sep_token" if len(options) > 1 else "clean"):
            of(**options)
    (tmp_path / "tokenizer_config.json").write_text('{"diptych_cleaning": "lower"}')
    assert of(clean="whitespace") is None
