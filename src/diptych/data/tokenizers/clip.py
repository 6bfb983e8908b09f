"""CLIP's tokenizer: lower-cased byte-pair ids between a start and an end token.

Ids equal OpenAI's. The engine of Hugging Face (`tokenizers`) trains the merges and splits new words; words
already seen come from a table, which is where the speed comes from (`benchmarks/tokenizer.py`).

Source: Radford et al. 2021, section 2.4; openai/CLIP `simple_tokenizer.py`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.errors import UsageError
from diptych.data.tokenizers import vocabulary as vocabularies
from diptych.data.tokenizers.cleaning import (
    END,
    MAX_CHARACTERS,
    START,
    WORD_END,
    byte_symbols,
    chunks,
    repaired,
    symbol_order,
    to_symbols,
    words,
)
from diptych.data.tokenizers.vocabulary import (
    BASIC_SIZE,
    DEFAULT_CONTEXT_LENGTH,
    PUBLISHED_SIZE,
    AddedToken,
    AddedTokens,
    Vocabulary,
)

ID_TYPE = np.dtype("<i4")  # how ids lie in the table of words
MAX_REMEMBERED = 100_000  # chunks in the table, about 20 MB; then it starts afresh
MAX_REMEMBERED_CHARACTERS = 64  # longer chunks are rare, and hostile ones should not fill the table
MIN_CONTEXT_LENGTH = 3  # start, one token, end
MIN_MERGE_COUNT = 2  # a pair that occurs once teaches nothing
TRAINING_LINE_WORDS = 1000  # words handed to the engine at a time


@dataclass(slots=True)
class TokenCounts:
    """Texts that a tokenizer's `tokens` met so far.

    Attributes:
        truncated: with more tokens than the context holds; the end token was kept.
        capped: cut at 4,096 characters before clean-up.
        special: with a start or end token typed out; the model reads only up to the first end token.
    """

    texts: int = 0
    truncated: int = 0
    capped: int = 0
    special: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return plain values for a report."""
        return asdict(self)


class _Words(dict[str, bytes]):
    """Chunks of text → their ids as int32 bytes; what is not there yet is worked out by the engine."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._special = {START: vocabulary.ids[START], END: vocabulary.ids[END]}
        self._engine: Any = None

    def __missing__(self, chunk: str) -> bytes:
        if self._engine is None:
            from tokenizers import models

            self._engine = models.BPE(
                vocab=self._vocabulary.ids, merges=list(self._vocabulary.merges), end_of_word_suffix=WORD_END
            )
        ids: list[int] = []
        for word in words(chunk):
            special = self._special.get(word)
            if special is not None:
                ids.append(special)
            else:
                ids.extend(token.id for token in self._engine.tokenize(to_symbols(word)))
        packed = np.array(ids, dtype=ID_TYPE).tobytes()
        if len(chunk) <= MAX_REMEMBERED_CHARACTERS:
            if len(self) >= MAX_REMEMBERED:
                self.clear()
            self[chunk] = packed
        return packed


class Tokenizer:
    """Text to token ids and back; `counts` says what `tokens` met so far."""

    def __init__(self, vocabulary: Vocabulary, *, context_length: int = DEFAULT_CONTEXT_LENGTH) -> None:
        if context_length < MIN_CONTEXT_LENGTH:
            expected = f"at least {MIN_CONTEXT_LENGTH}"
            raise UsageError("the context is too short for any text", found=context_length, expected=expected)
        self.context_length = context_length
        self.vocab_size = len(vocabulary.ids)
        self.start_id, self.end_id = vocabulary.ids[START], vocabulary.ids[END]
        self.counts = TokenCounts()
        self._vocabulary = vocabulary
        self._words = _Words(vocabulary)
        self._added = None
        if vocabulary.added:  # then transformers' way, where start and end are such tokens too
            specials = (AddedToken(START), AddedToken(END))
            self._added = AddedTokens((*specials, *vocabulary.added), vocabulary.ids)
        self._pieces: dict[int, bytes] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Tokenizer, context_length=self.context_length), (self._vocabulary,)

    @classmethod
    def train(
        cls, captions: Iterable[str], *, size: int, context_length: int = DEFAULT_CONTEXT_LENGTH
    ) -> "Tokenizer":
        """Learn merges from captions; the same captions always give the same vocabulary.

        Args:
            captions: any number of texts, read once.
            size: ids wanted: 512 bytes, merges, start and end. Fewer come out if the captions run out of
                pairs that occur twice.
            context_length: tokens in a row.

        Source: Sennrich et al. 2016, algorithm 1, over the words of the cleaned captions.
        """
        require_size(size)
        vocabulary = vocabularies.from_merges(_learn_merges(_count_words(captions), size))
        return cls(vocabulary, context_length=context_length)

    @classmethod
    def from_merges(
        cls, path: str | Path, *, size: int = PUBLISHED_SIZE, context_length: int = DEFAULT_CONTEXT_LENGTH
    ) -> "Tokenizer":
        """Load published merges (`bpe_simple_vocab_16e6.txt.gz`), as many as a vocabulary of `size` takes."""
        return cls(vocabularies.read_merges(Path(path), size=size), context_length=context_length)

    @classmethod
    def load(cls, folder: str | Path, *, context_length: int | None = None) -> "Tokenizer":
        """Load from a folder: tokenizer.json if there, else vocab.json and merges.txt, else published merges.

        Args:
            folder: what `save` wrote, or a folder from the Hugging Face hub.
            context_length: None: what tokenizer_config.json states, else 77.
        """
        vocabulary, length = vocabularies.read_folder(Path(folder))
        return cls(vocabulary, context_length=length if context_length is None else context_length)

    @classmethod
    def open(cls, path: str | Path, *, context_length: int | None = None) -> "Tokenizer":
        """Load from a folder, a `tokenizer.json`, a `vocab.json` with its merges, or the published merges."""
        path = Path(path)
        if path.is_dir():
            return cls.load(path, context_length=context_length)
        length = DEFAULT_CONTEXT_LENGTH if context_length is None else context_length
        if path.suffix != ".json":
            return cls.from_merges(path, context_length=length)
        if path.name == "vocab.json":
            vocabulary = vocabularies.read_vocab_and_merges(path, path.with_name("merges.txt"))
        else:
            vocabulary = vocabularies.read_tokenizer_json(path)
        return cls(vocabulary, context_length=length)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides a text's ids."""
        return vocabularies.digest(self._vocabulary)

    @property
    def is_published(self) -> bool:
        """Whether this is the vocabulary of OpenAI's CLIP, which other libraries carry with them."""
        is_theirs = vocabularies.merges_digest(self._vocabulary) == vocabularies.PUBLISHED_DIGEST
        return is_theirs and not self._vocabulary.added

    @property
    def added(self) -> tuple[str, ...]:
        """Tokens that were added to the merges, as they are written."""
        return tuple(token.content for token in self._vocabulary.added)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json into an existing folder."""
        vocabularies.write(self._vocabulary, Path(folder), context_length=self.context_length)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end; special tokens typed out get their special ids."""
        ids: list[int] = np.frombuffer(self._packed(text), dtype=ID_TYPE).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the cleaned text of ids: start tokens are left out and the first end token ends it."""
        if not self._pieces:
            byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
            id_of = self._vocabulary.ids
            for token, number in id_of.items():
                stem = token.removesuffix(WORD_END)
                space = b" " if stem != token else b""
                self._pieces[number] = bytes(byte_of[symbol] for symbol in stem if symbol in byte_of) + space
            alone = [token for token in self.added if id_of[token] > self.end_id]
            self._pieces |= {id_of[token]: f"{token} ".encode() for token in alone}
        text = bytearray()
        for number in map(int, ids):
            if number == self.end_id:
                break
            if number not in self._pieces:
                expected = f"0 to {self.vocab_size - 1}, from this vocabulary"
                raise UsageError("no such token id", found=number, expected=expected)
            if number != self.start_id:
                text += self._pieces[number]
        return text.decode("utf-8", errors="replace").strip(" ")

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return (B, context_length) ids of B texts: start, the text's ids, end, then zeros.

        A text that does not fit is cut; its last position still holds the end token, and `counts` tells.
        """
        texts = checks.texts(texts, "texts")
        limit = self.context_length - 2
        packed = [self._packed(text) for text in texts]
        lengths = np.fromiter(map(len, packed), dtype=np.int64, count=len(packed)) // ID_TYPE.itemsize
        kept = np.minimum(lengths, limit)
        truncated = int((lengths > limit).sum())
        if truncated:
            packed = [ids[: limit * ID_TYPE.itemsize] for ids in packed]
        ids = np.frombuffer(b"".join(packed), dtype=ID_TYPE)
        rows = np.zeros((len(packed), self.context_length), dtype=np.int64)
        rows[:, 0] = self.start_id
        rows[:, 1:-1][np.arange(limit) < kept[:, None]] = ids
        rows[np.arange(len(packed)), kept + 1] = self.end_id
        special = np.isin(ids, (self.start_id, self.end_id))
        self.counts.texts += len(texts)
        self.counts.truncated += truncated
        self.counts.capped += sum(len(text) > MAX_CHARACTERS for text in texts)
        self.counts.special += len(np.unique(np.repeat(np.arange(len(packed)), kept)[special]))
        return rows

    def _packed(self, text: str) -> bytes:
        if self._added is None:
            return b"".join(map(self._words.__getitem__, chunks(text)))
        packed = bytearray()
        for part in self._added.split(repaired(text)):
            if isinstance(part, int):
                packed += np.array(part, dtype=ID_TYPE).tobytes()
            else:
                packed += b"".join(map(self._words.__getitem__, part.split()))
        return bytes(packed)


def require_size(size: int) -> None:
    """Refuse a vocabulary's size that leaves no room for a merge or is beyond what a file may hold."""
    if not BASIC_SIZE <= size <= vocabularies.MAX_SIZE:
        raise UsageError(
            "impossible size of a vocabulary",
            found=f"{size:,}",
            expected=f"{BASIC_SIZE} (bytes and specials alone) to {vocabularies.MAX_SIZE:,}",
            fix="set tokenizer.size (--size); 8192 suits a hundred thousand captions, CLIP's is 49408",
        )


def _count_words(captions: Iterable[str]) -> Counter[str]:
    """Return how often each word occurs, as byte characters; special tokens typed out are no words."""
    seen: Counter[str] = Counter()
    for caption in captions:
        seen.update(chunks(caption))
    counted: Counter[str] = Counter()
    for chunk, count in seen.items():
        for word in words(chunk):
            if word not in (START, END):
                counted[to_symbols(word)] += count
    return counted


def _learn_merges(counted: Counter[str], size: int) -> list[tuple[str, str]]:
    from tokenizers import Tokenizer as Engine
    from tokenizers import models, pre_tokenizers, trainers

    engine = Engine(models.BPE(end_of_word_suffix=WORD_END))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The engine numbers symbols in the order of a hash table and breaks ties between merges by number, so
    # training would differ from run to run; naming all symbols beforehand fixes the numbers.
    symbols = [*symbol_order(), *(symbol + WORD_END for symbol in symbol_order()), START, END]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_MERGE_COUNT,
        show_progress=False,
        special_tokens=symbols,
        end_of_word_suffix=WORD_END,
    )
    engine.train_from_iterator(_lines(counted), trainer=trainer)
    merges = json.loads(engine.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def _lines(counted: Counter[str]) -> Iterator[str]:
    """Yield every word as often as it occurs, in lines of bounded length; the order of input is no matter."""
    for word, count in sorted(counted.items()):
        full, rest = divmod(count, TRAINING_LINE_WORDS)
        for _ in range(full):
            yield " ".join([word] * TRAINING_LINE_WORDS)
        yield " ".join([word] * rest)
