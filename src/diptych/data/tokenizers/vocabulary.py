"""A byte-pair vocabulary and its files: published merges, vocab.json + merges.txt, tokenizer.json.

A file that is too large, malformed or not CLIP's kind of vocabulary is an IntegrityError, a missing one a
DataError, before the engine sees it.

Reads: `bpe_simple_vocab_16e6.txt.gz`, and what it writes: vocab.json, merges.txt and the tokenizer's two JSON
files. Source: openai/CLIP `simple_tokenizer.py` for the order of ids; Hugging Face `tokenizers` and
`transformers` (`CLIPTokenizer`, `AddedVocabulary`) for the JSON.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from diptych.core.errors import DataError, IntegrityError
from diptych.core.files import durable as files
from diptych.core.files.reading import decode_text, read_json
from diptych.data.tokenizers.cleaning import END, PATTERN, START, WORD_END, byte_symbols
from diptych.data.tokenizers.settings import CONFIG, require_clip, special_tokens

COPY_AGAIN = "copy the file again from where the model came from"
TRAIN_ONE = "train one with `diptych tokenizer SOURCE OUT`"
MAX_FILE_BYTES = 10 * 2**20  # 49,408 entries take 2.3 MB; of more, hostile JSON could take more than 300 MB
MAX_SIZE = 200_000  # entries in a vocabulary
PUBLISHED_SIZE = 49_408  # 256 bytes, 256 bytes that end a word, 48,894 merges, start and end
PUBLISHED_MERGES = "bpe_simple_vocab_16e6.txt.gz"  # the name that OpenAI gave the file
DEFAULT_CONTEXT_LENGTH = 77
MIN_CONTEXT_LENGTH = 3  # start, one token, end
MAX_CONTEXT_LENGTH = 65_536  # configs of others write 1e30 for "no limit"
BASIC_SIZE = 514  # 2 × 256 byte symbols, start, end

Merge = tuple[str, str]
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token beside the merges (textual inversion, transformers' `add_tokens`).

    It is looked for in lower-cased text if it is `normalized`, else in the text as it is written; a
    `single_word` is no part of a longer word.
    """

    content: str
    normalized: bool = True
    single_word: bool = False


class AddedTokens:
    """Finds added tokens in texts before the merges see them, wherever they stand, the longest first."""

    def __init__(self, tokens: Iterable[AddedToken], ids: Mapping[str, int]) -> None:
        self._ids: tuple[dict[str, int], dict[str, int]] = ({}, {})  # as written, and in lower case
        patterns: tuple[dict[str, str], dict[str, str]] = ({}, {})
        for token in tokens:
            content = _lower(token.content) if token.normalized else token.content
            self._ids[token.normalized].setdefault(content, ids[token.content])
            escaped = re.escape(content)
            pattern = rf"(?<!\w){escaped}(?!\w)" if token.single_word else escaped
            patterns[token.normalized].setdefault(content, pattern)
        longest_first = [[table[key] for key in sorted(table, key=len, reverse=True)] for table in patterns]
        self._patterns = [re.compile(f"({'|'.join(listed) or '(?!)'})") for listed in longest_first]

    def split(self, text: str) -> Iterator[str | int]:
        """Yield the ids of added tokens, and the lower-cased text between them.

        >>> list(AddedTokens([AddedToken("<cat>")], {"<cat>": 7}).split("A <CAT>!"))
        ['a ', 7, '!']
        """
        for part in self._split(text, 0):
            yield from [part] if isinstance(part, int) else self._split(_lower(part), 1)

    def _split(self, text: str, normalized: int) -> Iterator[str | int]:
        for index, part in enumerate(self._patterns[normalized].split(text)):
            if index % 2:
                yield self._ids[normalized][part]
            elif part:
                yield part


def _lower(text: str) -> str:
    return _SPACES.sub(" ", normalize("NFC", text)).lower()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens with their ids 0..V-1, the merges in the order they are applied, and the tokens before those."""

    ids: dict[str, int]
    merges: tuple[Merge, ...]
    added: tuple[AddedToken, ...] = ()

    def learned(self) -> dict[str, int]:
        """Return the ids without those behind the end token that only added tokens have."""
        alone = {token.content for token in self.added if self.ids[token.content] > self.ids[END]}
        return {token: number for token, number in self.ids.items() if token not in alone}


def from_merges(merges: Sequence[Merge]) -> Vocabulary:
    """Number the tokens as CLIP does: bytes, bytes that end a word, merges, start, end.

    >>> from_merges([("a", "b</w>")]).ids["ab</w>"]
    512
    """
    tokens = [*byte_tokens(), *(left + right for left, right in merges), START, END]
    unique = dict.fromkeys(tokens)  # two merges may build the same token: it has one id
    return Vocabulary({token: number for number, token in enumerate(unique)}, tuple(merges))


def byte_tokens() -> list[str]:
    """Return the 256 byte symbols, printable bytes first, and the same at a word's end, as their ids go."""
    symbols = sorted(byte_symbols())
    return [*symbols, *(symbol + WORD_END for symbol in symbols)]


def read_merges(path: Path, *, size: int) -> Vocabulary:
    """Read published merges (plain or gzip) up to a vocabulary of `size` and number the tokens."""
    return check(from_merges(_merges_of(path)[: max(size - BASIC_SIZE, 0)]), path)


def read_file(path: Path) -> Vocabulary:
    """Read a tokenizer.json, GPT-2's pair of vocab.json and merges.txt, or published merges."""
    if path.suffix != ".json":
        return read_merges(path, size=PUBLISHED_SIZE)
    if not path.is_file():
        raise DataError("the vocabulary file is missing", where=path, fix=TRAIN_ONE)
    document = read_object(path)
    if path.name == "vocab.json":
        return check(Vocabulary(document, tuple(_merges_of(path.with_name("merges.txt")))), path)
    vocabulary = _from_document(document, path)
    require_clip({}, document, vocabulary.ids, path)
    return vocabulary


def read_folder(folder: Path) -> tuple[Vocabulary, int]:
    """Read a folder's vocabulary (tokenizer.json if there, else vocab.json, else published merges).

    Returns:
        The vocabulary with the tokens that other files of the folder add, and the context length that
        tokenizer_config.json states, or 77 where it states none.
    """
    names = (CONFIG, "added_tokens.json", "tokenizer.json")
    config, older, document = (read_object(folder / name) for name in names)
    others = (folder / name for name in ("vocab.json", PUBLISHED_MERGES) if (folder / name).is_file())
    path = folder / "tokenizer.json"  # if there is none at all, reading it says so
    vocabulary = _from_document(document, path) if document else read_file(next(others, path))
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(isinstance(entry, dict) for entry in decoder.values()):
        raise _malformed(folder / CONFIG, "other added_tokens_decoder", "id: token")
    entries = [{**entry, "id": int(key) if key.isdecimal() else key} for key, entry in decoder.items()]
    known = {*vocabulary.ids, *(str(entry.get("content")) for entry in entries)}
    entries += [{"content": name, "id": number} for name, number in older.items() if name not in known]
    vocabulary = _with_added(vocabulary, entries, folder / CONFIG)
    require_clip(config, document, vocabulary.ids, path)
    # Padding with "!" makes of a typed "!" that token: transformers finds special tokens before the merges.
    fixed = (START, END, *(token.content for token in vocabulary.added))
    special = dict.fromkeys(token for token in special_tokens(config) if token not in fixed)
    entries = [{"content": token, "id": vocabulary.ids[token], "special": True} for token in special]
    vocabulary = check(_with_added(vocabulary, entries, folder / CONFIG), folder)
    return vocabulary, stated_length(config, least=MIN_CONTEXT_LENGTH, default=DEFAULT_CONTEXT_LENGTH)


def stated_length(config: Mapping[str, Any], *, least: int, default: int) -> int:
    """Return the context length that a tokenizer_config.json states if it is sane, else the default."""
    length = config.get("model_max_length")
    return length if isinstance(length, int) and least <= length <= MAX_CONTEXT_LENGTH else default


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a tokenizer's file, empty where there is no such file."""
    return read_json(path, max_bytes=MAX_FILE_BYTES, fix=COPY_AGAIN) if path.is_file() else {}


def read_bytes(path: Path, *, max_bytes: int, fix: str) -> bytes:
    """Return the bytes of a vocabulary's file; `fix`: what to do where it is missing."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise DataError("the vocabulary file is missing", where=path, fix=fix) from error
    except OSError as error:
        raise IntegrityError("cannot read the vocabulary file", where=path, found=error) from error
    if len(data) > max_bytes:
        what, expected = "the vocabulary file is too large", f"at most {max_bytes:,} bytes"
        raise IntegrityError(what, where=path, expected=expected, fix=COPY_AGAIN)
    return data


def check(vocabulary: Vocabulary, where: Path | str = "") -> Vocabulary:
    """Return the vocabulary if ids are 0..V-1, all bytes are there and merges name known tokens."""
    ids, merges = vocabulary.ids, vocabulary.merges
    if len(ids) > MAX_SIZE or len(merges) > MAX_SIZE:
        raise _malformed(where, f"{len(ids):,} tokens, {len(merges):,} merges", f"at most {MAX_SIZE:,}")
    if any(type(number) is not int for number in ids.values()) or set(ids.values()) != set(range(len(ids))):
        raise _malformed(where, "other ids", f"each of 0..{len(ids) - 1} once")
    for token in (START, END, *byte_tokens()):
        if token not in ids:
            raise _malformed(where, f"no token {token!r}", "start, end and all 2 × 256 byte tokens")
    for left, right in merges:
        if left not in ids or right not in ids or left + right not in ids:
            raise _malformed(where, f"the merge {left!r} {right!r}", "merges of known tokens")
    return vocabulary


def write(vocabulary: Vocabulary, folder: Path, *, context_length: int) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json; transformers reads all four."""
    files.write_text(folder / "tokenizer.json", _engine_document(vocabulary))
    files.write_text(folder / "vocab.json", json.dumps(vocabulary.learned(), ensure_ascii=False))
    merges = "".join(f"{left} {right}\n" for left, right in vocabulary.merges)
    files.write_text(folder / "merges.txt", f"#version: 0.2\n{merges}")
    decoder = {}
    for token in vocabulary.added:
        number = vocabulary.ids[token.content]
        flags = {"lstrip": False, "rstrip": False, "normalized": token.normalized, "special": False}
        decoder[str(number)] = {
            "id": number, "content": token.content, "single_word": token.single_word, **flags
        }  # fmt: skip
    config = {
        **({"added_tokens_decoder": decoder} if decoder else {}),
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    files.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def _engine_document(vocabulary: Vocabulary) -> str:
    """Return the `tokenizer.json` that Hugging Face's fast CLIP tokenizer is made of."""
    import tokenizers
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

    ids, merges = vocabulary.learned(), list(vocabulary.merges)
    suffixes = {"continuing_subword_prefix": "", "end_of_word_suffix": WORD_END}
    engine = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=END, **suffixes))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    engine.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    engine.decoder = decoders.ByteLevel()
    engine.post_processor = processors.RobertaProcessing(
        (END, ids[END]), (START, ids[START]), trim_offsets=False, add_prefix_space=False
    )
    engine.add_special_tokens(
        [tokenizers.AddedToken(name, normalized=True, special=True) for name in (START, END)]
    )
    engine.add_tokens(
        [
            tokenizers.AddedToken(token.content, normalized=token.normalized, single_word=token.single_word)
            for token in sorted(vocabulary.added, key=lambda token: vocabulary.ids[token.content])
        ]
    )
    return str(engine.to_str())


def _from_document(document: dict[str, Any], path: Path) -> Vocabulary:
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise _malformed(path, "no such model", '"model" of type BPE')
    ids, merges, added = model.get("vocab"), model.get("merges"), document.get("added_tokens", [])
    if not isinstance(ids, dict) or not isinstance(merges, list) or not isinstance(added, list):
        raise _malformed(path, "other types", "vocab: object, merges: list, added_tokens: list")
    if (suffix := model.get("end_of_word_suffix")) != WORD_END:
        raise _malformed(path, f"end_of_word_suffix {suffix!r}", f"CLIP's {WORD_END!r}")
    learned = Vocabulary(ids, tuple(_as_merge(merge, path) for merge in merges))
    return check(_with_added(learned, added, path), path)


def _with_added(vocabulary: Vocabulary, entries: Iterable[Any], path: Path) -> Vocabulary:
    """Return the vocabulary with further tokens, given as transformers' files describe them."""
    ids, added = dict(vocabulary.ids), {token.content: token for token in vocabulary.added}
    for entry in entries:
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(content, str) or not content:
            raise _malformed(path, "an added token without content", "content and id")
        number = entry.get("id")
        if ids.setdefault(content, number) != number:
            raise _malformed(path, f"two ids of the token {content[:60]!r}", "one")
        if content not in (START, END):
            normalized = bool(entry.get("normalized", not entry.get("special")))
            added[content] = AddedToken(content, normalized, bool(entry.get("single_word")))
    return Vocabulary(ids, vocabulary.merges, tuple(added.values()))


def _merges_of(path: Path) -> list[Merge]:
    data = read_bytes(path, max_bytes=MAX_FILE_BYTES, fix=TRAIN_ONE)
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_FILE_BYTES + 1)
        lines = decode_text(data).split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _malformed(path, error, "UTF-8 text, plain or in a complete gzip stream") from error
    if len(data) > MAX_FILE_BYTES:
        raise _malformed(path, "more", f"a gzip stream of at most {MAX_FILE_BYTES:,} bytes")
    first = 1 if "#version" in lines[0] else 0
    return [_as_merge(line.rstrip("\r"), path) for line in lines[first:] if line.strip()]


def _as_merge(merge: Any, path: Path) -> Merge:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) and part for part in parts):
        return parts[0], parts[1]
    raise _malformed(path, f"the merge {str(merge)[:60]!r}", "two tokens")


def _malformed(path: Path | str, found: object, expected: str) -> IntegrityError:
    what = "this is not a CLIP vocabulary"
    return IntegrityError(what, where=path, found=found, expected=expected, fix=COPY_AGAIN)
