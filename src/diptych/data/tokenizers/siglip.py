"""SigLIP's tokenizer: the text's ids, the end token, then padding to the whole context.

Reads and writes: ``spiece.model`` or ``tokenizer.json`` beside ``tokenizer_config.json``. Nothing in these
files is executed. Source: Zhai et al. 2023 (SigLIP): 32,000 pieces of C4 English; Tschannen et al. 2025
(SigLIP 2): Gemma's 256,000, lower case. Who cleans texts how: `siglip_engines`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.errors import IntegrityError, UsageError, unknown_name
from diptych.core.files import durable as files
from diptych.core.files.reading import decode_text
from diptych.data.tokenizers.cleaning import MAX_CHARACTERS
from diptych.data.tokenizers.clip import ID_TYPE, Rows
from diptych.data.tokenizers.settings import CONFIG, content_of, require_known, require_siglip
from diptych.data.tokenizers.siglip_engines import CLEANINGS, Cleaning, Engine, JsonEngine, PieceEngine
from diptych.data.tokenizers.vocabulary import COPY_AGAIN, read_bytes, read_object, stated_length

NO_START = -1  # the id of the start token that these texts do not have, as in `ClipConfig`
DEFAULT_CONTEXT_LENGTH = 64
MAX_FILE_BYTES = 128 * 2**20  # Gemma's tokenizer.json takes 34 MB
PIECES, JSON = "spiece.model", "tokenizer.json"
ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]"

# How the reference classes of transformers clean, by the name in tokenizer_config.json. Gemma's own class
# leaves capitals, but SigLIP 2 learned without them (as `Siglip2Tokenizer` says).
_CLEANING_OF: dict[str, Cleaning] = {
    "SiglipTokenizer": "siglip",
    "Siglip2Tokenizer": "lower",
    "GemmaTokenizer": "lower",
    "T5Tokenizer": "open_clip",
}


class SiglipTokenizer(Rows):
    """Text to token ids and back; `counts` says what `tokens` met so far.

    Args:
        engine: the vocabulary, and how it cleans texts.
        end_token: ends every text.
        pad_token: fills every row; SigLIP's is the end token.
        context_length: tokens in a row, the end included.
        vocab_size: ids that the model knows, if that is not the vocabulary's size.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        end_token: str = "</s>",
        pad_token: str = "</s>",
        context_length: int = DEFAULT_CONTEXT_LENGTH,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__(
            context_length=context_length,
            start_id=NO_START,
            end_id=_id_of(engine, end_token),
            pad_id=_id_of(engine, pad_token),
        )
        self.engine, self.cleaning = engine, engine.cleaning
        self.end_token, self.pad_token = end_token, pad_token
        self.vocab_size = engine.size if vocab_size is None else vocab_size

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        cleaning: Cleaning | None = None,
        context_length: int | None = None,
        vocab_size: int | None = None,
    ) -> "SiglipTokenizer":
        """Load from a folder: of the hub, of transformers, of open_clip, or what `save` wrote.

        Where both files lie there, the class that tokenizer_config.json names decides: `SiglipTokenizer`
        reads spiece.model, the others tokenizer.json.

        Args:
            folder: holds spiece.model or tokenizer.json, and tokenizer_config.json.
            cleaning: None: what `save` recorded, else that of the class that tokenizer_config.json names. An
                open_clip configuration with ``"clean": "canonicalize"`` wants ``open_clip``.
            context_length: None: what tokenizer_config.json states, else 64.
            vocab_size: ids that the model knows; None: all of the vocabulary.
        """
        folder = Path(folder)
        config = read_object(folder / CONFIG)
        named = str(config.get("tokenizer_class") or "").removesuffix("Fast")
        has_pieces = (folder / PIECES).is_file()
        pieces = has_pieces and (named == "SiglipTokenizer" or not (folder / JSON).is_file())
        chosen = cleaning or config.get("diptych_cleaning") or _CLEANING_OF.get(named)
        if chosen not in CLEANINGS:
            raise IntegrityError(
                "how this tokenizer cleans texts is not said",
                where=folder / CONFIG,
                found=f"tokenizer_class {named!r}, diptych_cleaning {config.get('diptych_cleaning')!r}",
                expected=f"a tokenizer_class of {', '.join(_CLEANING_OF)}",
                fix=f"pass cleaning, one of {', '.join(CLEANINGS)}",
            )
        path = folder / (PIECES if pieces else JSON)
        require_siglip(config, folder)
        source = read_bytes(path, max_bytes=MAX_FILE_BYTES, fix=COPY_AGAIN)
        engine: Engine = (PieceEngine if pieces else JsonEngine)(source, cleaning=chosen, where=path)
        require_known(config, engine.id_of, folder)
        tokens = [content_of(config.get(name)) for name in ("eos_token", "pad_token")]
        defaults = ("</s>", "</s>") if engine.id_of("</s>") == 1 else ("<eos>", "<pad>")
        end, pad = (a if isinstance(a, str) else b for a, b in zip(tokens, defaults, strict=True))
        if context_length is None:
            context_length = stated_length(config, least=2, default=DEFAULT_CONTEXT_LENGTH)
        return cls(
            engine,
            end_token=end,
            pad_token=pad,
            context_length=context_length,
            vocab_size=vocab_size,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides a text's ids."""
        return hashlib.sha256(self.cleaning.encode() + self.engine.source).hexdigest()

    @property
    def added(self) -> tuple[str, ...]:
        """Tokens that were added to the vocabulary, as they are written."""
        return self.engine.added

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary, byte for byte, and tokenizer_config.json into an existing folder."""
        is_pieces = isinstance(self.engine, PieceEngine)
        files.write_bytes(Path(folder) / (PIECES if is_pieces else JSON), self.engine.source)
        self._write_config(Path(folder), "SiglipTokenizer" if is_pieces else "PreTrainedTokenizerFast")

    def save_for_transformers(self, folder: str | Path) -> None:
        """Write files from which transformers' AutoTokenizer gives these ids without further arguments.

        spiece.model is copied; the clean-up and the end token go into tokenizer.json itself. open_clip's
        clean-up repairs texts, which neither file can do: a UsageError.
        """
        is_pieces = isinstance(self.engine, PieceEngine)
        if self.cleaning == "open_clip" or (is_pieces and self.cleaning != "siglip"):
            raise UsageError(
                "transformers cannot clean texts like this",
                found=f"cleaning {self.cleaning!r}",
                expected="siglip; for tokenizer.json lower or none too",
                fix='load the model with tokenizer=SiglipTokenizer.load(FOLDER, cleaning="siglip"): texts '
                "with underscores, entities or broken letters will differ",
            )
        if is_pieces:
            self.save(folder)
        else:
            self._save_self_contained(Path(folder))

    def save_for_open_clip(self, folder: str | Path) -> str:
        """Write a tokenizer.json from which open_clip's loader gives these ids, and return its ``clean``.

        That name belongs into ``text_cfg.tokenizer_kwargs`` of the configuration. open_clip repairs and
        unescapes texts whatever is asked of it, so texts that need that may differ.
        """
        self._save_self_contained(Path(folder))
        return "canonicalize" if self.cleaning == "open_clip" else "whitespace"

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without the end token."""
        return self.engine.ids([_ready(text)])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids up to the first end token, without padding."""
        kept: list[int] = []
        for number in map(int, ids):
            if number == self.end_id:
                break
            if number != self.pad_id:
                kept.append(number)
        if any(not 0 <= number < self.engine.size for number in kept):
            expected = f"0 to {self.engine.size - 1}, from this vocabulary"
            raise UsageError("no such token id", found=max(kept), expected=expected)
        return self.engine.decode(kept)

    def _packed(self, texts: Sequence[str]) -> list[bytes]:
        id_lists = self.engine.ids([_ready(text) for text in texts]) if texts else []
        largest = max((max(ids[: self.context_length - 1]) for ids in id_lists if ids), default=0)
        if largest >= self.vocab_size:
            what, fix = (
                "a text holds a token that the model does not know",
                "leave out tokens such as <extra_id_0>",
            )
            raise UsageError(what, found=f"id {largest}", expected=f"ids below {self.vocab_size}", fix=fix)
        return [np.array(ids, dtype=ID_TYPE).tobytes() for ids in id_lists]

    def _save_self_contained(self, folder: Path) -> None:
        """Write a tokenizer.json that cleans texts and ends them itself, whatever it said about that before.

        ``open_clip``'s clean-up is left to open_clip: repairing texts is beyond the format. The lower case of
        ``siglip`` is letter by letter here: no final sigma.
        """
        from tokenizers import Regex, Tokenizer, normalizers, processors

        engine = Tokenizer.from_str(decode_text(self.engine.as_json()))
        chain: list[Any] = [normalizers.Lowercase()] if self.cleaning in ("lower", "siglip") else []
        if self.cleaning == "siglip":
            removed = ((ASCII_PUNCTUATION, ""), (r"\s+", " "))
            chain += [normalizers.Replace(Regex(pattern), text) for pattern, text in removed]
            chain.append(normalizers.Strip())
        chain += [] if engine.normalizer is None else [engine.normalizer]
        engine.normalizer = normalizers.Sequence(chain) if chain else None
        end = (self.end_token, self.end_id)
        engine.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
        engine.no_padding()
        engine.no_truncation()
        files.write_text(folder / JSON, str(engine.to_str()))
        self._write_config(folder, "PreTrainedTokenizerFast")

    def _write_config(self, folder: Path, name: str) -> None:
        config = {
            "tokenizer_class": name,
            "model_max_length": self.context_length,
            "eos_token": self.end_token,
            "pad_token": self.pad_token,
            "unk_token": "<unk>",
            "padding_side": "right",
            "do_lower_case": self.cleaning != "none",
            "diptych_cleaning": self.cleaning,
        }
        files.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def _ready(text: str) -> str:
    text = text[:MAX_CHARACTERS]
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")


def _id_of(engine: Engine, token: str) -> int:
    number = engine.id_of(token)
    if number is None:
        raise unknown_name("token", token, ["</s>", "<eos>", "<pad>"], where="the tokenizer's vocabulary")
    return number
