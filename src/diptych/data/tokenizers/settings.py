"""Settings in tokenizer files that would change ids: what diptych does not follow is refused by its name.

Read: tokenizer_config.json, and of tokenizer.json what transformers takes from it.

Source: transformers 5 `CLIPTokenizer` (which makes its own normalizer and pre-tokenizer whatever the file
says, and takes post-processor, padding and truncation from it), `TokenizersBackend`, `SiglipTokenizer`.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from diptych.core.errors import UnsupportedError
from diptych.data.tokenizers.cleaning import END, PATTERN, START

CONFIG = "tokenizer_config.json"

_FILES_PIPELINE = ("PreTrainedTokenizerFast", "TokenizersBackend")  # CLIP's own classes do not read it
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_SIDES: dict[str, tuple[Any, ...]] = {
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "split_special_tokens": (False,),
}
_CLIP: dict[str, tuple[Any, ...]] = {
    **_SIDES,
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast", None, *_FILES_PIPELINE),
    "bos_token": (START,),
    "eos_token": (END,),
}
_SIGLIP: dict[str, tuple[Any, ...]] = {**_SIDES, "add_bos_token": (False,), "add_eos_token": (True,)}


def require_clip(
    config: Mapping[str, Any], document: Mapping[str, Any], ids: Collection[str], path: Path
) -> None:
    """Refuse what a CLIP tokenizer's files ask for beyond CLIP's own.

    Args:
        config: content of tokenizer_config.json; empty if there is none.
        document: content of tokenizer.json; empty if there is none.
        ids: tokens that have an id.
        path: of tokenizer.json, there or not; the other file lies beside it.
    """
    beside = path.with_name(CONFIG)
    _require(config, _CLIP, beside)
    for token in special_tokens(config):
        if token not in ids:
            raise _not_followed(beside, "special tokens", token, "tokens that have an id")
    for part in ("padding", "truncation"):
        _require(_table(document.get(part)), {"direction": ("Right",)}, path, f"{part}.")
    ends = document.get("post_processor")
    if ends is not None and _ends_of(_table(ends)) != (START, END):
        raise _not_followed(path, "post_processor", _table(ends).get("type"), f"{START} text {END}")
    if config.get("tokenizer_class") in _FILES_PIPELINE:
        _require_clips_pipeline(document, path)


def require_siglip(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what a SigLIP tokenizer's configuration asks for beyond SigLIP's own; see `require_clip`."""
    theirs = config.get("tokenizer_class") == "SiglipTokenizer" and "diptych_cleaning" not in config
    _require(config, {**_SIGLIP, "do_lower_case": (True,)} if theirs else _SIGLIP, folder / CONFIG)


def require_length(config: Mapping[str, Any], context_length: int, folder: Path) -> None:
    """Refuse a tokenizer that cuts (SigLIP: fills) texts at fewer tokens than the text tower reads."""
    length = config.get("model_max_length")
    if isinstance(length, int) and length < context_length:
        expected = f"{context_length} or more, what the text tower reads"
        raise _not_followed(folder / CONFIG, "model_max_length", length, expected)


def require_known(config: Mapping[str, Any], id_of: Callable[[str], int | None], folder: Path) -> None:
    """Refuse tokens that were added beside the vocabulary's file, and so are not found in texts."""
    for number, token in _table(config.get("added_tokens_decoder")).items():
        content = str(content_of(token))
        if str(id_of(content)) != number:
            raise _not_followed(folder / CONFIG, "added_tokens_decoder", content, "tokens of the vocabulary")


def special_tokens(config: Mapping[str, Any]) -> list[str]:
    """Return the special tokens that a tokenizer_config.json names."""
    named = [config.get(name) for name in _SPECIAL]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        listed = config.get(name)
        named += listed.values() if isinstance(listed, Mapping) else _list(listed)
    return [token for token in map(content_of, named) if isinstance(token, str)]


def content_of(token: Any) -> Any:
    """Return how a token is written; files hold that, or a table with it."""
    return token.get("content") if isinstance(token, Mapping) else token


def _require_clips_pipeline(document: Mapping[str, Any], path: Path) -> None:
    steps = _flat(document.get("normalizer"), "normalizers")
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    odd = [
        step.get("type") for step in steps if step.get("type") not in ("NFC", "Lowercase") and step != spaces
    ]
    if odd or "Lowercase" not in [step.get("type") for step in steps]:
        raise _not_followed(path, "normalizer", (*odd, "no Lowercase")[0], "NFC, Lowercase and single spaces")
    splits = _flat(document.get("pre_tokenizer"), "pretokenizers")
    patterns = (PATTERN, PATTERN.removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|"))
    split, level = (*splits, {}, {})[:2]
    is_clips = _table(split.get("pattern")).get("Regex") in patterns and level.get("type") == "ByteLevel"
    if len(splits) != 2 or not is_clips or level.get("add_prefix_space"):
        listed = ", ".join(str(step.get("type"))[:40] for step in splits) or "nothing"
        raise _not_followed(path, "pre_tokenizer", listed, "CLIP's Split and ByteLevel")
    merging = {"dropout": (0,), "continuing_subword_prefix": ("",), "ignore_merges": (False,)}
    _require(_table(document.get("model")), merging, path, "model.")


def _require(
    table: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], path: Path, part: str = ""
) -> None:
    for name, values in allowed.items():
        value = content_of(table.get(name))
        if value is not None and value not in values:
            expected = " or ".join(str(one) for one in values if one is not None)
            raise _not_followed(path, part + name, value, expected)


def _ends_of(processor: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the tokens that a post-processor puts before and behind a text."""
    if processor.get("type") == "RobertaProcessing":
        first, last = ((*_list(processor.get(name)), None)[0] for name in ("cls", "sep"))
        return first, last
    single = [_table(piece) for piece in _list(processor.get("single"))]
    if processor.get("type") != "TemplateProcessing" or len(single) != 3 or "Sequence" not in single[1]:
        return None, None
    first, last = (_table(piece.get("SpecialToken")).get("id") for piece in (single[0], single[2]))
    return first, last


def _flat(step: Any, name: str) -> list[Mapping[str, Any]]:
    inner = _table(step).get(name)
    if isinstance(inner, list):
        return [one for part in inner for one in _flat(part, name)]
    return [step] if isinstance(step, Mapping) else []


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _not_followed(path: Path, name: str, found: Any, expected: str) -> UnsupportedError:
    return UnsupportedError(
        "the tokenizer has a setting that this package does not follow",
        where=f"{path}: {name}",
        found=repr(found)[:80],
        expected=expected,
        fix="pass tokenizer= with one that does without it, or use transformers for this model",
    )
