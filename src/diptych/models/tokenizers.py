"""Which tokenizer belongs to which text tower, and which of a folder's files is its vocabulary.

Reads: a tokenizer's files. Needs no torch.
"""

from pathlib import Path

from diptych.core.errors import IntegrityError, SettingsError
from diptych.data.tokenizers.clip import Tokenizer
from diptych.data.tokenizers.siglip import JSON, PIECES, SiglipTokenizer
from diptych.data.tokenizers.siglip_engines import Cleaning
from diptych.data.tokenizers.vocabulary import PUBLISHED_MERGES, PUBLISHED_SIZE
from diptych.models.towers.config import NO_TOKEN, AnyTextConfig, ClipConfig, TextConfig

AnyTokenizer = Tokenizer | SiglipTokenizer

MOST_PADDING = 1024  # rows of an embedding that may lie behind OpenAI's vocabulary; see `is_padded`
# Files that hold a vocabulary, by the kind of the text tower.
VOCABULARIES: dict[str, tuple[str, ...]] = {
    "clip": ("tokenizer.json", "vocab.json", PUBLISHED_MERGES),
    "siglip": (PIECES, JSON),
}


def open_tokenizer(path: Path, text: AnyTextConfig, *, cleaning: Cleaning | None = None) -> AnyTokenizer:
    """Open the tokenizer of a text tower from its folder or vocabulary file; SigLIP's is a folder.

    `cleaning`: of SigLIP's texts, where another file than the tokenizer's says it.
    """
    if isinstance(text, TextConfig):
        return Tokenizer.load(path, context_length=text.context_length)
    folder = path if path.is_dir() else path.parent
    return SiglipTokenizer.load(
        folder, cleaning=cleaning, context_length=text.context_length, vocab_size=text.vocab_size
    )


def with_ids(config: ClipConfig, tokenizer: AnyTokenizer, *, file: object, where: object) -> ClipConfig:
    """Return a configuration with the ids of its tokenizer, where a library's configuration does not tell.

    `file` is the vocabulary and `where` the weights, for messages.
    """
    text = config.text
    if isinstance(tokenizer, SiglipTokenizer):
        ids = {"start_id": tokenizer.start_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
        return config.with_tokenizer(vocab_size=text.vocab_size, **ids)
    states_end = text.end_id != NO_TOKEN
    padded = states_end or (tokenizer.is_published and is_padded(text.vocab_size))
    if not states_end and tokenizer.end_id != tokenizer.vocab_size - 1:
        what = "these weights read a text at its largest id, and the tokenizer has ids beyond its end token"
        found = f"the end token {tokenizer.end_id} of {tokenizer.vocab_size} ids"
        theirs = f"eos_token_id {tokenizer.end_id} in text_config of transformers' config.json"
        fix = f'set {theirs}, or pool_type "eos" and eos_id {tokenizer.end_id} in text_cfg of open_clip\'s'
        stated = "a configuration that states the end token"
        raise SettingsError(what, where=where, found=found, expected=stated, fix=fix)
    for name, expected, fits in (
        ("context_length", text.context_length, tokenizer.context_length == text.context_length),
        ("end_id", text.end_id, not states_end or tokenizer.end_id == text.end_id),
        ("vocab_size", text.vocab_size, tokenizer.vocab_size == text.vocab_size or padded),
    ):
        if not fits or tokenizer.vocab_size > text.vocab_size:
            what, actual = "tokenizer and text tower do not fit", getattr(tokenizer, name)
            stated = f"{expected} as in the weights and configuration of {where}"
            fix = "pass tokenizer= with the vocabulary that the model learned with"
            raise SettingsError(what, where=f"{file}: {name}", found=actual, expected=stated, fix=fix)
    ids = {"start_id": tokenizer.start_id, "end_id": tokenizer.end_id}
    return config.with_tokenizer(vocab_size=tokenizer.vocab_size, **ids)


def is_padded(rows: int) -> bool:
    """Say whether an embedding of so many rows may be that of OpenAI's vocabulary, rounded up for speed."""
    return PUBLISHED_SIZE <= rows <= PUBLISHED_SIZE + MOST_PADDING and rows % 64 == 0


def vocabulary_file(folder: Path, text: AnyTextConfig) -> Path:
    """Return the file of a folder of ours whose digest stands for the tokenizer."""
    names = VOCABULARIES[text.kind]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    fix = "restore the folder from a copy"
    raise IntegrityError("the vocabulary is missing", where=folder, expected=" or ".join(names), fix=fix)
