"""Which tokenizer belongs to which text tower, and which of a folder's files is its vocabulary.

Reads: a tokenizer's files. Writes: nothing. Needs no torch.
"""

from pathlib import Path

from diptych.core.errors import IntegrityError
from diptych.data.siglip_engines import Cleaning
from diptych.data.siglip_tokenizer import JSON, PIECES, SiglipTokenizer
from diptych.data.tokenizer import Tokenizer
from diptych.models.config import AnyTextConfig, ClipConfig, TextConfig

AnyTokenizer = Tokenizer | SiglipTokenizer

VOCABULARIES: dict[str, tuple[str, ...]] = {
    "clip": ("tokenizer.json", "vocab.json", "bpe_simple_vocab_16e6.txt.gz"),
    "siglip": (PIECES, JSON),
}
"""Files that hold a vocabulary, by the kind of the text tower."""


def open_words(path: Path, text: AnyTextConfig, *, cleaning: Cleaning | None = None) -> AnyTokenizer:
    """Open the tokenizer of a text tower.

    Args:
        path: folder or vocabulary file; SigLIP's is a folder.
        text: the tower's configuration.
        cleaning: of SigLIP's texts, where another file than the tokenizer's says it.

    Raises:
        DataError, IntegrityError: the files are missing, damaged or of another kind.
    """
    if isinstance(text, TextConfig):
        return Tokenizer.open(path, context_length=text.context_length)
    folder = path if path.is_dir() else path.parent
    return SiglipTokenizer.load(
        folder, cleaning=cleaning, context_length=text.context_length, vocab_size=text.vocab_size
    )


def with_ids(config: ClipConfig, words: AnyTokenizer) -> ClipConfig:
    """Return a configuration with the ids of its tokenizer, where a library's configuration does not tell."""
    if not isinstance(words, SiglipTokenizer):
        return config
    return config.with_tokenizer(
        vocab_size=config.text.vocab_size, start_id=words.start_id, end_id=words.end_id, pad_id=words.pad_id
    )


def vocabulary_file(folder: Path, text: AnyTextConfig) -> Path:
    """Return the file of a folder of ours whose digest stands for the tokenizer.

    Raises:
        IntegrityError: there is none.
    """
    names = VOCABULARIES[text.kind]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise IntegrityError(
            "the vocabulary is missing",
            where=folder,
            expected=" or ".join(names),
            fix="restore the folder from a copy",
        )
    return found
