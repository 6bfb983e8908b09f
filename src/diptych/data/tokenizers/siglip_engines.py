"""Engines of SigLIP's vocabularies: clean-up of texts, ids, and conversion of the vocabulary files.

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
``tokenizer.py``; Protocol Buffers documentation, "Encoding".
"""

import html
import re
import string
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from diptych.core.errors import IntegrityError, MissingPackageError
from diptych.core.files.text import decode_text
from diptych.data.tokenizers.cleaning import fix_text

Cleaning = Literal["siglip", "open_clip", "lower", "none"]
CLEANINGS: tuple[Cleaning, ...] = ("siglip", "open_clip", "lower", "none")

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of a sentencepiece model
_PIECE, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _UNIGRAM, _UNKNOWN_ID = 3, 1, 40
_CHARSMAP = 2
_CONTROL = 3

ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MAX_SHIFT = 63
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


def pieces_to_json(source: bytes, *, where: object = "") -> bytes:
    """Return a spiece.model as tokenizer.json.

    The same pieces and scores in another engine: of two ways to cut a text that score equally, such as the
    halves of "ahah", it may take the other one.

    Args:
        source: the bytes of a unigram model.
        where: the file, for messages.

    Raises:
        IntegrityError: it is not a unigram model.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    try:
        fields = read_message(source)
        trainer, normalizer = (read_message(_bytes(fields[part][-1])) for part in (_TRAINER, _NORMALIZER))
        pieces = [read_message(_bytes(piece)) for piece in fields[_PIECES]]
        if trainer.get(_MODEL_TYPE, [_UNIGRAM])[-1] != _UNIGRAM:
            raise ValueError("it is not of the unigram kind")
        names = [_bytes(piece[_PIECE][-1]).decode("utf-8") for piece in pieces]
        scores = [struct.unpack("<f", _bytes(piece[_SCORE][-1]))[0] for piece in pieces]
        charsmap = _bytes(normalizer.get(_CHARSMAP, [b""])[-1])
        unknown = int(trainer.get(_UNKNOWN_ID, [0])[-1])
        engine = Tokenizer(
            models.Unigram(list(zip(names, scores, strict=True)), unknown, byte_fallback=False)
        )
        if charsmap:
            engine.normalizer = normalizers.Precompiled(charsmap)
    except (ValueError, KeyError, struct.error) as error:
        raise IntegrityError(
            "the vocabulary cannot be converted",
            where=where,
            found=f"{type(error).__name__}: {error}",
            expected="a unigram model of sentencepiece",
        ) from error
    metaspace = pre_tokenizers.Metaspace(replacement=META_SPACE, prepend_scheme="always", split=True)
    engine.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    engine.decoder = decoders.Metaspace(replacement=META_SPACE, prepend_scheme="always", split=True)
    special = [name for name, piece in zip(names, pieces, strict=True) if piece.get(_KIND) == [_CONTROL]]
    engine.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return str(engine.to_str()).encode("utf-8")


def self_contained(source: bytes, *, cleaning: Cleaning, end: tuple[str, int]) -> str:
    """Return a tokenizer.json that cleans texts and ends them itself, whatever it said about that before.

    Args:
        source: the bytes of a tokenizer.json.
        cleaning: what comes before its own normaliser. ``open_clip``'s is left to open_clip: repairing texts
            is beyond the format. ``siglip``'s lower case is letter by letter here: no final sigma.
        end: the end token and its id.
    """
    from tokenizers import Regex, Tokenizer, normalizers, processors

    engine = Tokenizer.from_str(decode_text(source))
    before: dict[Cleaning, list[Any]] = {
        "lower": [normalizers.Lowercase()],
        "siglip": [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(ASCII_PUNCTUATION), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ],
    }
    inside = [] if engine.normalizer is None else [engine.normalizer]
    chain = [*before.get(cleaning, []), *inside]
    engine.normalizer = normalizers.Sequence(chain) if chain else None
    engine.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    engine.no_padding()
    engine.no_truncation()
    return str(engine.to_str())


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where text should")
    return value


def read_message(source: bytes) -> dict[int, list[int | bytes]]:
    """Return the values of each field in order: whole numbers as they are, everything else as its bytes.

    Raises:
        ValueError: the message is cut off or is none.

    >>> read_message(bytes([8, 150, 1, 18, 2, 104, 105]))
    {1: [150], 2: [b'hi']}
    """
    fields: defaultdict[int, list[int | bytes]] = defaultdict(list)
    place = 0
    while place < len(source):
        key, place = _varint(source, place)
        kind = key & 7
        if kind == _VARINT:
            number, place = _varint(source, place)
            fields[key >> 3].append(number)
            continue
        if kind == _BYTES:
            size, place = _varint(source, place)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"no protobuf message: a field of kind {kind}")
        if place + size > len(source):
            raise ValueError("the protobuf message is cut off")
        fields[key >> 3].append(source[place : place + size])
        place += size
    return dict(fields)


def _varint(source: bytes, place: int) -> tuple[int, int]:
    """Return the number in base 128 that begins at a place, and the place behind it."""
    number = 0
    for shift in range(0, _MAX_SHIFT + 1, 7):
        if place >= len(source):
            raise ValueError("the protobuf message is cut off")
        byte = source[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("no protobuf message: a number of more than 64 bits")
