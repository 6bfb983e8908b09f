"""CLIP's tokenizer: lower-cased byte-pair ids between a start and an end token.

Ids equal OpenAI's. The engine of Hugging Face (`tokenizers`) trains the merges and splits new words; words
already seen come from a table, which is where the speed comes from (`benchmarks/tokenizer.py`).

Source: Radford et al. 2021, section 2.4; openai/CLIP `simple_tokenizer.py`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
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
    to_symbols,
    words,
)
from diptych.data.tokenizers.vocabulary import (
    BASIC_SIZE,
    DEFAULT_CONTEXT_LENGTH,
    MIN_CONTEXT_LENGTH,
    PUBLISHED_SIZE,
    AddedToken,
    AddedTokens,
    Vocabulary,
)

ID_TYPE = np.dtype("<i4")  # how ids lie in the table of words
MAX_REMEMBERED = 100_000  # chunks in the table, about 20 MB; then it starts afresh
MAX_REMEMBERED_CHARACTERS = 64  # longer chunks are rare, and hostile ones should not fill the table
MIN_MERGE_COUNT = 2  # a pair that occurs once teaches nothing
TRAINING_LINE_WORDS = 1000  # words handed to the engine at a time
# SHA-256 of OpenAI's merges, one a line: CLIP vocabularies differ in nothing else.
PUBLISHED_DIGEST = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"


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


class Rows:
    """Base of the tokenizers: lists of ids become rows of one length, and `counts` says what was met.

    Attributes:
        context_length: tokens in a row.
        start_id: begins every row; -1 where rows have no start token.
        pad_id: fills every row behind its end token.
    """

    def __init__(self, *, context_length: int, start_id: int, end_id: int, pad_id: int) -> None:
        least = MIN_CONTEXT_LENGTH if start_id >= 0 else MIN_CONTEXT_LENGTH - 1
        if context_length < least:
            what = "the context is too short for any text"
            raise UsageError(what, found=context_length, expected=f"at least {least}")
        self.context_length = context_length
        self.start_id, self.end_id, self.pad_id = start_id, end_id, pad_id
        self.counts = TokenCounts()

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return (B, context_length) ids of B texts: start, the text's ids, end, then padding.

        A text is cut at 4,096 characters before any work. One that does not fit is cut; its last position
        still holds the end token, and `counts` tells.
        """
        texts = checks.texts(texts, "texts")
        packed = self._packed(texts)
        first = int(self.start_id >= 0)
        limit = self.context_length - first - 1
        lengths = np.fromiter(map(len, packed), dtype=np.int64, count=len(packed)) // ID_TYPE.itemsize
        kept = np.minimum(lengths, limit)
        truncated = int((lengths > limit).sum())
        if truncated:
            packed = [ids[: limit * ID_TYPE.itemsize] for ids in packed]
        ids = np.frombuffer(b"".join(packed), dtype=ID_TYPE)
        rows = np.full((len(packed), self.context_length), self.pad_id, dtype=np.int64)
        rows[:, :first] = self.start_id
        rows[:, first:-1][np.arange(limit) < kept[:, None]] = ids
        rows[np.arange(len(packed)), kept + first] = self.end_id
        special = (ids == self.start_id) | (ids == self.end_id)
        self.counts.texts += len(texts)
        self.counts.truncated += truncated
        self.counts.capped += sum(len(text) > MAX_CHARACTERS for text in texts)
        self.counts.special += len(np.unique(np.repeat(np.arange(len(packed)), kept)[special]))
        return rows

    def _packed(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of each text as `ID_TYPE`."""
        raise NotImplementedError


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


class Tokenizer(Rows):
    """CLIP's texts to token ids and back."""

    def __init__(self, vocabulary: Vocabulary, *, context_length: int = DEFAULT_CONTEXT_LENGTH) -> None:
        ids = vocabulary.ids
        super().__init__(context_length=context_length, start_id=ids[START], end_id=ids[END], pad_id=0)
        self.vocab_size = len(ids)
        self._vocabulary = vocabulary
        self._words = _Words(vocabulary)
        self._added = None
        if vocabulary.added:  # then transformers' way, where start and end are such tokens too
            self._added = AddedTokens((AddedToken(START), AddedToken(END), *vocabulary.added), ids)
        self._pieces: dict[int, bytes] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Tokenizer, context_length=self.context_length), (self._vocabulary,)

    @classmethod
    def train(
        cls, captions: Iterable[str], *, size: int, context_length: int = DEFAULT_CONTEXT_LENGTH
    ) -> "Tokenizer":
        """Learn merges from captions; the same captions always give the same vocabulary.

        Args:
            size: ids wanted: 512 bytes, merges, start and end. Fewer come out if the captions run out of
                pairs that occur twice.

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
    def load(cls, path: str | Path, *, context_length: int | None = None) -> "Tokenizer":
        """Load from a folder: tokenizer.json if there, else vocab.json and merges.txt, else published merges.

        Args:
            path: what `save` wrote, or a folder from the Hugging Face hub; or one of these files.
            context_length: None: what the folder's tokenizer_config.json states, else 77.
        """
        path, length = Path(path), DEFAULT_CONTEXT_LENGTH
        if path.is_dir():
            vocabulary, length = vocabularies.read_folder(path)
        else:
            vocabulary = vocabularies.read_file(path)
        return cls(vocabulary, context_length=length if context_length is None else context_length)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides a text's ids: tokens and ids, merges in order, added tokens."""
        vocabulary = self._vocabulary
        parts = [sorted(vocabulary.ids.items()), [*map(tuple, vocabulary.merges)], [*vocabulary.added]]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def is_published(self) -> bool:
        """Whether this is the vocabulary of OpenAI's CLIP, which other libraries carry with them."""
        lines = "\n".join(f"{left} {right}" for left, right in self._vocabulary.merges)
        is_openais = hashlib.sha256(lines.encode()).hexdigest() == PUBLISHED_DIGEST
        return is_openais and not self._vocabulary.added

    @property
    def added(self) -> tuple[str, ...]:
        """Tokens that were added to the merges, as they are written."""
        return tuple(token.content for token in self._vocabulary.added)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json into an existing folder."""
        vocabularies.write(self._vocabulary, Path(folder), context_length=self.context_length)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end; special tokens typed out get their special ids."""
        ids: list[int] = np.frombuffer(self._packed([text])[0], dtype=ID_TYPE).tolist()
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

    def _packed(self, texts: Sequence[str]) -> list[bytes]:
        ids_of = self._words.__getitem__
        if self._added is None:
            return [b"".join(map(ids_of, chunks(text))) for text in texts]
        packed = []
        for text in texts:
            parts = self._added.split(repaired(text))
            split = (
                [np.array(part, dtype=ID_TYPE).tobytes()]
                if isinstance(part, int)
                else map(ids_of, part.split())
                for part in parts
            )
            packed.append(b"".join(chain.from_iterable(split)))
        return packed


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
    symbols = [*vocabularies.byte_tokens(), START, END]
    options: dict[str, Any] = {"min_frequency": MIN_MERGE_COUNT, "special_tokens": symbols}
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, end_of_word_suffix=WORD_END, **options
    )
    engine.train_from_iterator(_lines(counted), trainer=trainer)
    return [(left, right) for left, right in json.loads(engine.to_str())["model"]["merges"]]


def _lines(counted: Counter[str]) -> Iterator[str]:
    """Yield every word as often as it occurs, in lines of bounded length; the order of input is no matter."""
    for word, count in sorted(counted.items()):
        full, rest = divmod(count, TRAINING_LINE_WORDS)
        for _ in range(full):
            yield " ".join([word] * TRAINING_LINE_WORDS)
        yield " ".join([word] * rest)
