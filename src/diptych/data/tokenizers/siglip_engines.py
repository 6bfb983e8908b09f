"""Engines of SigLIP's vocabularies: clean-up of texts, ids, and the vocabulary files.

- ``spiece.model`` (SigLIP): read and run by Google's `sentencepiece`, as transformers' `SiglipTokenizer`
  does. Its search breaks ties by float32 rounding, so no other engine gives equal ids on all texts.
- ``tokenizer.json`` (SigLIP 2's Gemma vocabulary; open_clip's copies of both): run by `tokenizers`.

Clean-up, by the name of who does it:

- ``siglip``: transformers' `SiglipTokenizer`: lower case, ASCII punctuation removed, single spaces. Special
  tokens that are typed out keep their ids.
- ``open_clip``: open_clip's `canonicalize`: text repaired by ftfy and unescaped, "_" becomes a space, then
  the same. Special tokens that are typed out lose their brackets and are words.
- ``lower``: transformers' `Siglip2Tokenizer`: lower case, letter by letter, and nothing else.
- ``none``: transformers' `GemmaTokenizer`, which forgets that SigLIP 2 learned with lower case.

Source: google-research/big_vision ``prompt_engineering.py`` (`canonicalize_text`); transformers 5
``tokenization_siglip.py``, ``tokenization_siglip2.py``, ``convert_slow_tokenizer.py``; open_clip 3.3
``tokenizer.py``.
"""

import html
import re
import string
from collections.abc import Sequence
from typing import Any, Literal, get_args

from diptych.core.errors import IntegrityError, MissingPackageError
from diptych.core.files.protobuf import fields
from diptych.core.files.reading import decode_text
from diptych.data.tokenizers.cleaning import fix_text

Cleaning = Literal["siglip", "open_clip", "lower", "none"]
CLEANINGS: tuple[Cleaning, ...] = get_args(Cleaning)

_WHOLE_MODEL, _TRAINER, _NORMALIZER = {1, 2, 3}, 2, 3  # fields of a sentencepiece model
_MODEL_TYPE, _UNIGRAM = 3, b"\1"  # field of the trainer's settings, and its value
_CHARSMAP = 2  # field of the normalizer's settings
META_SPACE = "▁"  # sentencepiece's visible space
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACES = re.compile(r"\s+")


def canonical(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, in single spaces.

    >>> canonical("  A dog's  ball_2!")
    'a dogs ball2'
    """
    return _SPACES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).strip()


def open_clip_canonical(text: str) -> str:
    """Return the text as open_clip's `canonicalize` leaves it.

    >>> open_clip_canonical("  A dog&amp;#39;s  ball_2!")
    'a dogs ball 2'
    """
    text = html.unescape(html.unescape(fix_text(text))).strip()
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


class JsonEngine:
    """A tokenizer.json, run by `tokenizers`. What it says about start, end, padding and length is not used.

    Texts are cleaned before the file's own normalizer; `where` names the file in messages.
    """

    def __init__(self, source: bytes, *, cleaning: Cleaning, where: object = "") -> None:
        from tokenizers import Tokenizer, normalizers

        self.source, self.cleaning = source, cleaning
        try:
            engine: Any = Tokenizer.from_str(decode_text(source))
        except BaseException as error:  # a panic inside the engine is no Exception
            raise _refused(error, where) from error
        engine.no_padding()
        engine.no_truncation()
        if cleaning == "lower":  # a part of the engine, which finds added tokens in the text as it is written
            inside = [] if engine.normalizer is None else [engine.normalizer]
            engine.normalizer = normalizers.Sequence([normalizers.Lowercase(), *inside])
        self._engine = engine
        self._clean = {"siglip": canonical, "open_clip": open_clip_canonical}.get(cleaning, str)
        self.size: int = engine.get_vocab_size(with_added_tokens=True)
        first = engine.get_vocab_size(with_added_tokens=False)
        tokens = sorted(engine.get_added_tokens_decoder().items())
        self.added: tuple[str, ...] = tuple(token.content for number, token in tokens if number >= first)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without an end token."""
        cleaned = [self._clean(text) for text in texts]
        return [row.ids for row in self._engine.encode_batch_fast(cleaned, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._engine.decode(list(ids)))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if the vocabulary does not have it."""
        number: int | None = self._engine.token_to_id(token)
        return number

    def as_json(self) -> bytes:
        """Return the vocabulary as a tokenizer.json."""
        return self.source


class PieceEngine:
    """A spiece.model, run by `sentencepiece`, which finds no tokens beside its own. See `JsonEngine`."""

    UNKNOWN, END = "<unk>", "</s>"
    added: tuple[str, ...] = ()

    def __init__(self, source: bytes, *, cleaning: Cleaning, where: object = "") -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            what, fix = (
                "SigLIP's spiece.model needs the package sentencepiece",
                "pip install 'diptych[siglip]'",
            )
            raise MissingPackageError(what, where=where, fix=fix) from error
        self.source, self.cleaning = source, cleaning
        try:
            # sentencepiece itself takes a file that is cut off, with fewer pieces and no normalizer.
            if not {number for number, *_ in fields(source, 0, len(source))} >= _WHOLE_MODEL:
                raise ValueError("pieces, trainer or normalizer are missing")
            self._engine: Any = SentencePieceProcessor(model_proto=source)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refused(error, where) from error
        self._clean = {"open_clip": open_clip_canonical, "lower": str.lower}.get(cleaning, str)
        self._canonical = canonical if cleaning == "siglip" else str
        self.size = int(self._engine.get_piece_size())
        # sentencepiece swallows a space at the start of a text. The reference puts the unknown token in front
        # and takes its pieces away again.
        self._prefix = len(self._engine.encode(self.UNKNOWN))
        self._special = re.compile(f"({re.escape(self.END)}|{re.escape(self.UNKNOWN)})")

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without an end token."""
        marked = [META_SPACE + self._clean(text).replace(META_SPACE, " ") for text in texts]
        id_lists = self._encoded(marked)
        for row, text in enumerate(marked):
            if self._special.search(text):
                id_lists[row] = self._mixed(text)
        return id_lists

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._engine.decode(list(ids)))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if the vocabulary does not have it."""
        number = int(self._engine.piece_to_id(token))
        return number if self._engine.id_to_piece(number) == token else None

    def as_json(self) -> bytes:
        """Return the vocabulary as a tokenizer.json.

        The same pieces and scores in another engine: of two ways to cut a text that score equally, such as
        the halves of "ahah", it may take the other one.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

        if _field(_field(self.source, _TRAINER), _MODEL_TYPE) not in (b"", _UNIGRAM):
            what, expected = "the vocabulary cannot be converted", "a unigram model of sentencepiece"
            raise IntegrityError(what, found="another kind of model", expected=expected)
        pieces = [(self._engine.id_to_piece(n), self._engine.get_score(n)) for n in range(self.size)]
        engine = Tokenizer(models.Unigram(pieces, self._engine.unk_id(), byte_fallback=False))
        if charsmap := _field(_field(self.source, _NORMALIZER), _CHARSMAP):
            engine.normalizer = normalizers.Precompiled(charsmap)
        space: dict[str, Any] = {"replacement": META_SPACE, "prepend_scheme": "always", "split": True}
        metaspace = pre_tokenizers.Metaspace(**space)
        engine.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
        engine.decoder = decoders.Metaspace(**space)
        special = [name for number, (name, _) in enumerate(pieces) if self._engine.is_control(number)]
        engine.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
        return str(engine.to_str()).encode("utf-8")

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        prefixed = [self.UNKNOWN + self._canonical(text) for text in texts]
        return [ids[self._prefix :] for ids in self._engine.encode(prefixed)]

    def _mixed(self, text: str) -> list[int]:
        """Return the ids of a text with special tokens typed out; these swallow the spaces beside them."""
        ids: list[int] = []
        parts = self._special.split(text)
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(self._engine.piece_to_id(part))
                continue
            part = part.lstrip() if index else part
            part = part.rstrip() if index + 1 < len(parts) else part
            part_ids = self._encoded([part])[0] if part else []
            # A text that begins with a special token does not begin with a space.
            ids += part_ids if index or part_ids != [self._engine.piece_to_id(META_SPACE)] else []
        return ids


Engine = JsonEngine | PieceEngine


def _field(message: bytes, wanted: int) -> bytes:
    """Return the content of a protobuf message's last field of a number; b"" if there is none."""
    # sentencepiece's own protobuf module cannot be used: it and that of transformers register the same file,
    # and whichever is imported second fails.
    found = [
        message[first:end] for number, _, first, end in fields(message, 0, len(message)) if number == wanted
    ]
    return found[-1] if found else b""


def _refused(error: BaseException, where: object) -> BaseException:
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        return error
    what, fix = "the tokenizer file cannot be read", "fetch it again from where the model came from"
    found, expected = f"{type(error).__name__}: {error}"[:200], "a tokenizer.json or spiece.model of a SigLIP"
    return IntegrityError(what, where=where, found=found, expected=expected, fix=fix)
