"""What open_clip does to a text before its tokenizer, by its configuration: followed, or refused by name.

Source: open_clip 3.3 `factory.get_tokenizer`, `tokenizer.py` (`SimpleTokenizer`, `HFTokenizer`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.errors import UnsupportedError
from diptych.data.tokenizers.settings import CONFIG
from diptych.data.tokenizers.siglip_engines import Cleaning
from diptych.data.tokenizers.vocabulary import read_object
from diptych.models.files.hub import OPEN_CLIP_CONFIG


def stated_cleaning(model_cfg: Mapping[str, Any], family: str, folder: Path) -> Cleaning | None:
    """Return the clean-up of a SigLIP's texts where the configuration states it.

    Args:
        model_cfg: of an open_clip_config.json.
        family: "clip" or "siglip".
        folder: of the tokenizer.

    Raises:
        UnsupportedError: `tokenizer_kwargs` or `tokenizer_mode` ask for something that changes ids otherwise.
    """
    text = model_cfg.get("text_cfg")
    text = text if isinstance(text, Mapping) else {}
    options = text.get("tokenizer_kwargs")
    options = options if isinstance(options, Mapping) else {}
    named = bool(text.get("hf_tokenizer_name"))  # then `HFTokenizer`, whose own file lower-cases
    clean = options.get("clean") or ("whitespace" if named else "lower")
    allowed: tuple[Any, ...] = ("lower", "whitespace") if named else ("lower",)
    if family == "siglip":
        recorded = "diptych_cleaning" in read_object(folder / CONFIG)  # as `save_for_open_clip` writes it
        allowed = (clean,) if recorded else ("canonicalize",)
    others = {f"tokenizer_kwargs.{name}": value for name, value in options.items() if name != "clean"}
    others["tokenizer_mode"] = text.get("tokenizer_mode")
    strange = {name: value for name, value in others.items() if value}
    if clean not in allowed:
        strange = {"tokenizer_kwargs.clean": clean, **strange}
    for name, value in strange.items():
        raise UnsupportedError(
            "the configuration asks for a tokenizer that this package does not have",
            where=f"{folder / OPEN_CLIP_CONFIG}: text_cfg.{name[:80]}",
            found=repr(value)[:80],
            expected=" or ".join(map(str, allowed)) if name.endswith(".clean") else "nothing",
            fix="use open_clip for this model",
        )
    return "open_clip" if family == "siglip" and clean == "canonicalize" else None
