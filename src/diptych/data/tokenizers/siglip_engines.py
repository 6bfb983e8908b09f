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
``tokenizer.py``.
"""

import html
import re
import string
import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, get_args

from diptych.core.errors import IntegrityError, MissingPackageError
from diptych.core.files.protobuf import VARINT, fields, read_varint
from diptych.core.files.text import decode_text
from diptych.data.tokenizers.cleaning import fix_text

Cleaning = Literal["siglip", "open_clip", "lower", "none"]
CLEANINGS: tuple[Cleaning, ...] = get_args(Cleaning)

# Fields of a sentencepiece model, of a piece, of the trainer's settings and of the normalizer's.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _UNIGRAM, _UNKNOWN_ID = 3, 1, 40
_CHARSMAP = 2
_CONTROL = 3  # the kind of a piece that is a special token

ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]"
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

    Args:
        source: the file's bytes.
        cleaning: done before the file's own normalizer.
        where: the file, for messages.
    """

    def __init__(self, source: bytes, *, cleaning: Cleaning, where: object = "") -> None:
        from tokenizers import Tokenizer, normalizers

        self.source = source
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
        self.source = source
        try:
            # sentencepiece itself takes a file that is cut off, with fewer pieces and no normalizer.
            if not _message(source).keys() >= {_PIECES, _TRAINER, _NORMALIZER}:
                raise ValueError("pieces, trainer or normalizer are missing")
            self._engine: Any = SentencePieceProcessor(model_proto=source)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refused(error, where) from error
        self._cleaning = cleaning
        self.size = int(self._engine.get_piece_size())
        # sentencepiece swallows a space at the start of a text. The reference puts the unknown token in front
        # and takes its pieces away again.
        self._prefix = len(self._engine.encode(self.UNKNOWN))
        self._special = re.compile(f"({re.escape(self.END)}|{re.escape(self.UNKNOWN)})")

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

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._engine.decode(list(ids)))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if the vocabulary does not have it."""
        number = int(self._engine.piece_to_id(token))
        return number if self._engine.id_to_piece(number) == token else None

    def _canonical(self, text: str) -> str:
        return canonical(text) if self._cleaning == "siglip" else text

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
            if not part:
                continue
            part_ids = self._engine.encode(self.UNKNOWN + self._canonical(part))[self._prefix :]
            # A text that begins with a special token does not begin with a space.
            ids += part_ids if index or part_ids != [self._engine.piece_to_id(META_SPACE)] else []
        return ids


Engine = JsonEngine | PieceEngine


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


def pieces_to_json(source: bytes) -> bytes:
    """Return a spiece.model as tokenizer.json.

    The same pieces and scores in another engine: of two ways to cut a text that score equally, such as the
    halves of "ahah", it may take the other one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    try:
        model = _message(source)
        trainer, normalizer = (_message(_bytes(model[part][-1])) for part in (_TRAINER, _NORMALIZER))
        pieces = [_message(_bytes(piece)) for piece in model[_PIECES]]
        if trainer.get(_MODEL_TYPE, [_UNIGRAM])[-1] != _UNIGRAM:
            raise ValueError("it is not of the unigram kind")
        names = [_bytes(piece[_PIECE][-1]).decode("utf-8") for piece in pieces]
        scores = [struct.unpack("<f", _bytes(piece[_SCORE][-1]))[0] for piece in pieces]
        unknown = int(trainer.get(_UNKNOWN_ID, [0])[-1])
        engine = Tokenizer(
            models.Unigram(list(zip(names, scores, strict=True)), unknown, byte_fallback=False)
        )
        if charsmap := _bytes(normalizer.get(_CHARSMAP, [b""])[-1]):
            engine.normalizer = normalizers.Precompiled(charsmap)
    except (ValueError, KeyError, struct.error) as error:
        found, expected = f"{type(error).__name__}: {error}", "a unigram model of sentencepiece"
        what = "the vocabulary cannot be converted"
        raise IntegrityError(what, found=found, expected=expected) from error
    space: dict[str, Any] = {"replacement": META_SPACE, "prepend_scheme": "always", "split": True}
    metaspace = pre_tokenizers.Metaspace(**space)
    engine.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    engine.decoder = decoders.Metaspace(**space)
    special = [name for name, piece in zip(names, pieces, strict=True) if piece.get(_KIND) == [_CONTROL]]
    engine.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return str(engine.to_str()).encode("utf-8")


def self_contained(source: bytes, *, cleaning: Cleaning, end: tuple[str, int]) -> str:
    """Return a tokenizer.json that cleans texts and ends them itself, whatever it said about that before.

    Args:
        source: the bytes of a tokenizer.json.
        cleaning: what comes before its own normalizer. ``open_clip``'s is left to open_clip: repairing texts
            is beyond the format. ``siglip``'s lower case is letter by letter here: no final sigma.
        end: the end token and its id.
    """
    from tokenizers import Regex, Tokenizer, normalizers, processors

    engine = Tokenizer.from_str(decode_text(source))
    chain: list[Any] = [normalizers.Lowercase()] if cleaning in ("lower", "siglip") else []
    if cleaning == "siglip":
        chain += [
            normalizers.Replace(Regex(ASCII_PUNCTUATION), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    chain += [] if engine.normalizer is None else [engine.normalizer]
    engine.normalizer = normalizers.Sequence(chain) if chain else None
    engine.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    engine.no_padding()
    engine.no_truncation()
    return str(engine.to_str())


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where text should")
    return value


# sentencepiece's own protobuf module cannot be used: it and that of transformers register the same file, and
# whichever is imported second fails.
def _message(source: bytes) -> dict[int, list[int | bytes]]:
    """Return the values of each field in order: whole numbers as they are, everything else as its bytes."""
    values: defaultdict[int, list[int | bytes]] = defaultdict(list)
    for number, begin, content, end in fields(source, 0, len(source)):
        is_number = source[begin] & 7 == VARINT
        value = read_varint(source, content, end)[0] if is_number else source[content:end]
        values[number].append(value)
    return dict(values)
