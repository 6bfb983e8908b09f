"""What turns SigLIP's texts into ids: the clean-up of each reference, and the engines of its vocabularies.

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
``tokenization_siglip.py``, ``tokenization_siglip2.py``; open_clip 3.3 ``tokenizer.py``.
"""

import html
import re
import string
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from diptych.core.errors import IntegrityError, MissingPackageError
from diptych.core.files.text import decode_text
from diptych.data.tokenizers.cleaning import fix_text
from diptych.data.tokenizers.protobuf import read_message

Cleaning = Literal["siglip", "open_clip", "lower", "none"]
CLEANINGS: tuple[Cleaning, ...] = ("siglip", "open_clip", "lower", "none")

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of a sentencepiece model
META_SPACE = "▁"  # sentencepiece's visible space
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACES = re.compile(r"\s+")


class Engine(Protocol):
    """A vocabulary at work."""

    source: bytes

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without an end token."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if the vocabulary does not have it."""

    def size(self) -> int:
        """Return the number of ids."""

    def added(self) -> tuple[str, ...]:
        """Return the tokens that were added to the vocabulary, as they are written."""


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

    Args:
        source: the file's bytes.
        cleaning: done before the file's own normaliser.
        where: the file, for messages.

    Raises:
        IntegrityError: the bytes are no tokenizer.
    """

    def __init__(self, source: bytes, *, cleaning: Cleaning, where: object = "") -> None:
        from tokenizers import Tokenizer, normalizers

        self.source = source
        try:
            self._engine: Any = Tokenizer.from_str(decode_text(source))
        except BaseException as error:  # a panic inside the engine is no Exception
            raise _refused(error, where) from error
        self._engine.no_padding()
        self._engine.no_truncation()
        if cleaning == "lower":  # a part of the engine, which finds added tokens in the text as it is written
            inside = [] if self._engine.normalizer is None else [self._engine.normalizer]
            self._engine.normalizer = normalizers.Sequence([normalizers.Lowercase(), *inside])
        cleaners: dict[Cleaning, Callable[[str], str]] = {
            "siglip": canonical,
            "open_clip": open_clip_canonical,
        }
        self._clean = cleaners.get(cleaning, str)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without an end token."""
        cleaned = [self._clean(text) for text in texts]
        return [
            encoding.ids for encoding in self._engine.encode_batch_fast(cleaned, add_special_tokens=False)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._engine.decode(list(ids)))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if the vocabulary does not have it."""
        number: int | None = self._engine.token_to_id(token)
        return number

    def size(self) -> int:
        """Return the number of ids."""
        return int(self._engine.get_vocab_size(with_added_tokens=True))

    def added(self) -> tuple[str, ...]:
        """Return the tokens that were added to the vocabulary, as they are written."""
        first = self._engine.get_vocab_size(with_added_tokens=False)
        tokens = self._engine.get_added_tokens_decoder()
        return tuple(token.content for number, token in sorted(tokens.items()) if number >= first)


class PieceEngine:
    """A spiece.model, run by `sentencepiece`.

    Args:
        source: the file's bytes.
        cleaning: ``siglip`` or another.
        where: the file, for messages.

    Raises:
        IntegrityError: the bytes are no sentencepiece model.
        MissingPackageError: `sentencepiece` is not installed.
    """

    UNKNOWN, END = "<unk>", "</s>"

    def __init__(self, source: bytes, *, cleaning: Cleaning, where: object = "") -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise MissingPackageError(
                "SigLIP's spiece.model needs the package sentencepiece",
                where=where,
                fix="pip install 'diptych[siglip]'",
            ) from error
        self.source = source
        try:
            # sentencepiece itself takes a file that is cut off, with fewer pieces and no normaliser.
            if not read_message(source).keys() >= {_PIECES, _TRAINER, _NORMALIZER}:
                raise ValueError("pieces, trainer or normaliser are missing")
            self._engine: Any = SentencePieceProcessor(model_proto=source)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refused(error, where) from error
        self._cleaning = cleaning
        # sentencepiece swallows a space at the start of a text. The reference puts the unknown token in front
        # and takes its pieces away again.
        self._prefix = len(self._engine.encode(self.UNKNOWN))
        self._special = re.compile(f"({re.escape(self.END)}|{re.escape(self.UNKNOWN)})")
        self._special_ids = {token: self._engine.piece_to_id(token) for token in (self.UNKNOWN, self.END)}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without an end token."""
        if self._cleaning == "open_clip":
            texts = [open_clip_canonical(text) for text in texts]
        elif self._cleaning == "lower":
            texts = [text.lower() for text in texts]
        marked = [META_SPACE + text.replace(META_SPACE, " ") for text in texts]
        plain = [self.UNKNOWN + self._canonical(text) for text in marked]
        id_lists: list[list[int]] = [ids[self._prefix :] for ids in self._engine.encode(plain)]
        for row, text in enumerate(marked):
            if self._special.search(text):
                id_lists[row] = self._mixed(text)
        return id_lists

    def _canonical(self, text: str) -> str:
        return canonical(text) if self._cleaning == "siglip" else text

    def _mixed(self, text: str) -> list[int]:
        """Return the ids of a text with special tokens typed out; these swallow the spaces beside them."""
        ids: list[int] = []
        parts = self._special.split(text)
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(self._special_ids[part])
                continue
            part = part.lstrip() if index else part
            part = part.rstrip() if index + 1 < len(parts) else part
            part_ids = (
                self._engine.encode(self.UNKNOWN + self._canonical(part))[self._prefix :] if part else []
            )
            # A text that begins with a special token does not begin with a space.
            ids += part_ids if index or part_ids != [self._engine.piece_to_id(META_SPACE)] else []
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._engine.decode(list(ids)))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if the vocabulary does not have it."""
        number = int(self._engine.piece_to_id(token))
        return number if self._engine.id_to_piece(number) == token else None

    def size(self) -> int:
        """Return the number of ids."""
        return int(self._engine.get_piece_size())

    def added(self) -> tuple[str, ...]:
        """Return nothing: sentencepiece finds no tokens beside its own."""
        return ()


def _refused(error: BaseException, where: object) -> BaseException:
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        return error
    return IntegrityError(
        "the tokenizer file cannot be read",
        where=where,
        found=f"{type(error).__name__}: {error}"[:200],
        expected="a tokenizer.json or spiece.model of a SigLIP",
        fix="fetch it again from where the model came from",
    )
