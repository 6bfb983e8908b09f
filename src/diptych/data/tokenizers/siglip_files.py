"""Write SigLIP's vocabularies as a tokenizer.json that other libraries load without further arguments.

Source: transformers 5 ``convert_slow_tokenizer.py`` and ``tokenization_t5.py`` for what a unigram model of
sentencepiece becomes (published SigLIP tokenizers of open_clip were made like this).
"""

import struct
from typing import Any

from diptych.core.errors import IntegrityError
from diptych.core.files.text import decode_text
from diptych.data.tokenizers.protobuf import read_message
from diptych.data.tokenizers.siglip_engines import META_SPACE, Cleaning

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto, in sentencepiece_model.proto
_PIECE, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _UNIGRAM, _UNKNOWN_ID = 3, 1, 40
_CHARSMAP = 2
_CONTROL = 3

ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]"


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
