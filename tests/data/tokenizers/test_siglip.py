"""SigLIP's ids beside those of transformers and of open_clip's clean-up, with vocabularies trained here."""

import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from tests.peers import transformers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as EngineBuilder

from diptych.core.errors import DataError, IntegrityError, UnknownNameError, UsageError
from diptych.data.tokenizers.siglip import SiglipTokenizer
from diptych.data.tokenizers.siglip_engines import pieces_to_json
from diptych.models.towers.config import NO_TOKEN

REPOSITORY = Path(__file__).resolve().parents[3]
CONTEXT = 64
PIECES_SIZE = 700

TRICKY = [
    "", " ", "\n\t", "a", "A dog's ball_2!", "  two   spaces ", "hahahahahaha", "aaaaaaaaaaaaaaaaaaaaaaaa",
    "1111111111111", "!!!", "…", "é", "e\u0301", "ﬁne ﬂour", "Ⅷ ①", "ΟΔΟΣ", "İstanbul", "STRASSE ß",
    "😀 😀😀", "👩\u200d👩\u200d👧", "&amp;amp; &lt;b&gt;", "cafÃ©", "▁ ▁▁x", "x▁y", "</s>", "a</s>b",
    "a </s> b", "</s></s>", "<unk>", " <unk> dog", "dog</s>", "😀 </s>", "<eos>", "<pad> a", "<bos>x",
    "a\x00b", "\u200bzero",
    "\u00a0nbsp\u3000wide", "日本語の文", "한국어", "שלום", "a" * 500, "word " * 200, "\ufeffbom",
    "tab\tand\nline", "_", "__init__", "ALL CAPITALS", "don't", "x" + "\u0301" * 20,
]  # fmt: skip


def corpus() -> list[str]:
    files = [REPOSITORY / "README.md", REPOSITORY / "LOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def fuzzed(count: int, seed: int) -> list[str]:
    """Return strings of words, pieces of words, letters of many scripts, signs, spaces and special tokens."""
    random_ = random.Random(seed)
    words = [word for line in corpus() for word in line.split()]
    scripts = [(32, 127), (0xA0, 0x17F), (0x370, 0x4FF), (0x4E00, 0x4E40), (0x1F600, 0x1F640), (0x300, 0x310)]
    parts = [
        lambda: random_.choice(words),
        lambda: random_.choice(words).upper(),
        lambda: random_.choice(words)[: random_.randint(1, 4)] * random_.randint(1, 6),
        lambda: chr(random_.randint(*random_.choice(scripts))),
        lambda: random_.choice(" \t\n,.;!?_-'\"&<>▁"),
        lambda: random_.choice(["</s>", "<unk>", "<pad>", "<eos>", "&amp;", "ﬁ"]),
    ]
    weights = [6, 1, 2, 2, 3, 0.2]
    return [
        random_.choice(["", " "]).join(
            part() for part in random_.choices(parts, weights, k=random_.randint(0, 20))
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def pieces() -> bytes:
    """Train a unigram model with the normaliser and the ids of SigLIP's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.lower() for line in corpus()]),
        model_writer=model,
        vocab_size=PIECES_SIZE,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def spiece(pieces: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save it as transformers does."""
    folder = tmp_path_factory.mktemp("spiece")
    (folder / "raw.model").write_bytes(pieces)
    transformers().SiglipTokenizer(str(folder / "raw.model")).save_pretrained(folder)
    assert (folder / "spiece.model").is_file()
    return folder


@pytest.fixture(scope="module")
def gemma() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train merges with Gemma's special tokens and bytes in front."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    engine = EngineBuilder(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    engine.normalizer = normalizers.Replace(" ", "▁")
    engine.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    symbols = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=symbols, show_progress=False)
    engine.train_from_iterator(corpus(), trainer)
    model = json.loads(engine.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def gemma_folder(kind: str, gemma: Any, folder: Path) -> Path:
    vocab, merges = gemma
    theirs = getattr(transformers(), kind)(vocab=vocab, merges=merges, padding_side="right")
    theirs._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", vocab["<eos>"])]
    )
    theirs.save_pretrained(folder)
    return folder


def ids_of(theirs: Any, texts: list[str]) -> np.ndarray:
    actual = theirs(texts, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    return np.array(actual, dtype=np.int64)


def same(ours: SiglipTokenizer, theirs: Any, texts: list[str]) -> None:
    actual, expected = ours.tokens(texts), ids_of(theirs, texts)
    wrong = np.flatnonzero((actual != expected).any(axis=1))
    assert wrong.size == 0, [(texts[row], actual[row][:12], expected[row][:12]) for row in wrong[:3]]


def test_ids_of_spiece_model_are_those_of_transformers(spiece: Path) -> None:
    theirs = transformers().SiglipTokenizer.from_pretrained(spiece)
    ours = SiglipTokenizer.load(spiece)
    assert (ours.cleaning, ours.end_id, ours.pad_id, ours.start_id) == ("siglip", 1, 1, NO_TOKEN)
    assert (ours.vocab_size, ours.context_length) == (PIECES_SIZE, CONTEXT)
    same(ours, theirs, TRICKY + fuzzed(3000, seed=0) + corpus())


def test_ids_of_spiece_model_are_those_of_transformers_on_real_captions(
    spiece: Path, shared_data: Path
) -> None:
    annotations = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    captions = [annotation["caption"] for annotation in annotations][:5000]
    same(SiglipTokenizer.load(spiece), transformers().SiglipTokenizer.from_pretrained(spiece), captions)


def test_what_we_save_is_loaded_by_transformers_and_by_us(spiece: Path, tmp_path: Path) -> None:
    ours = SiglipTokenizer.load(spiece)
    ours.save(tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == (spiece / "spiece.model").read_bytes()
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    texts = TRICKY + fuzzed(300, seed=1)
    same(ours, transformers().AutoTokenizer.from_pretrained(tmp_path), texts)
    again = SiglipTokenizer.load(tmp_path)
    assert np.array_equal(again.tokens(texts), ours.tokens(texts))


@pytest.mark.parametrize(("kind", "cleaning"), [("Siglip2Tokenizer", None), ("GemmaTokenizer", "none")])
def test_ids_of_gemmas_vocabulary_are_those_of_transformers(
    kind: str, cleaning: Any, gemma: Any, tmp_path: Path
) -> None:
    folder = gemma_folder(kind, gemma, tmp_path)
    ours = SiglipTokenizer.load(folder, cleaning=cleaning, context_length=CONTEXT)
    assert ours.cleaning == (cleaning or "lower")
    assert (ours.end_id, ours.pad_id, ours.start_id) == (1, 0, NO_TOKEN)
    same(
        ours, getattr(transformers(), kind).from_pretrained(folder), TRICKY + fuzzed(3000, seed=2) + corpus()
    )


@pytest.mark.parametrize("cleaning", ["lower", "none"])
def test_files_for_transformers_need_no_further_argument(cleaning: Any, gemma: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    ours = SiglipTokenizer.load(
        gemma_folder("GemmaTokenizer", gemma, source), cleaning=cleaning, context_length=CONTEXT
    )
    ours.save_for_transformers(target)
    (target / "config.json").write_text('{"model_type": "siglip"}')
    texts = TRICKY + fuzzed(300, seed=3)
    same(ours, transformers().AutoTokenizer.from_pretrained(target), texts)
    again = SiglipTokenizer.load(target)
    assert np.array_equal(again.tokens(texts), ours.tokens(texts))


def test_gemmas_class_means_lower_case(gemma: Any, tmp_path: Path) -> None:
    """transformers' GemmaTokenizer keeps capitals, with which SigLIP 2 never learned."""
    ours = SiglipTokenizer.load(gemma_folder("GemmaTokenizer", gemma, tmp_path))
    assert np.array_equal(ours.tokens(["A Big DOG"]), ours.tokens(["a big dog"]))


def t5_json(pieces: bytes) -> Any:
    """Build what open_clip's tokenizer.json holds: a unigram model behind the model's own normaliser."""
    engine = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    vocab = [(engine.id_to_piece(i), engine.get_score(i)) for i in range(engine.get_piece_size())]
    built = EngineBuilder(models.Unigram(vocab, unk_id=2))
    built.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers().PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token="</s>", pad_token="</s>", unk_token="<unk>", padding_side="right"
    )


def open_clips_canonicalize(text: str) -> str:
    """Write open_clip's chain down once more: repair, unescape twice, canonicalize."""
    import html
    import string

    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text))).replace("_", " ")
    text = "".join(letter for letter in text if letter not in string.punctuation)
    return " ".join(text.lower().split())


def test_open_clips_clean_up_is_the_same_chain(pieces: bytes, tmp_path: Path) -> None:
    theirs = t5_json(pieces)
    theirs.save_pretrained(tmp_path)
    texts = TRICKY + fuzzed(500, seed=4)
    ours = SiglipTokenizer.load(tmp_path, cleaning="open_clip", context_length=CONTEXT)
    expected = ids_of(theirs, [open_clips_canonicalize(text) for text in texts])
    assert np.array_equal(ours.tokens(texts), expected)
    with pytest.raises(UsageError, match='cleaning="siglip"'):
        ours.save_for_transformers(tmp_path)


def test_a_self_contained_file_cleans_as_siglip_does(pieces: bytes, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    t5_json(pieces).save_pretrained(source)
    ours = SiglipTokenizer.load(source, cleaning="siglip", context_length=CONTEXT)
    ours.save_for_transformers(target)
    (target / "config.json").write_text('{"model_type": "siglip"}')
    # Python gives a Greek word a final sigma, the engine does not. Special tokens are split off beforehand.
    texts = [text for text in TRICKY + fuzzed(300, seed=5) if "Σ" not in text and "<" not in text]
    same(ours, transformers().AutoTokenizer.from_pretrained(target), texts)


def test_pieces_become_the_tokenizer_json_that_transformers_makes(
    spiece: Path, pieces: bytes, tmp_path: Path
) -> None:
    (tmp_path / "spiece.model").write_bytes(pieces)
    theirs = transformers().T5Tokenizer.from_pretrained(
        tmp_path, extra_ids=0, pad_token="</s>", padding_side="right"
    )
    target = tmp_path / "target"
    target.mkdir()
    assert SiglipTokenizer.load(spiece, cleaning="open_clip").save_for_open_clip(target) == "canonicalize"
    texts = [open_clips_canonicalize(text) for text in TRICKY + fuzzed(2000, seed=6) + corpus()]
    expected = ids_of(theirs, texts)
    assert np.array_equal(ids_of(transformers().AutoTokenizer.from_pretrained(target), texts), expected)
    again = SiglipTokenizer.load(target)
    assert again.cleaning == "open_clip"
    assert np.array_equal(again.tokens(texts), expected)


def test_open_clip_gets_lower_case_in_the_file_itself(gemma: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    ours = SiglipTokenizer.load(gemma_folder("Siglip2Tokenizer", gemma, source), context_length=CONTEXT)
    assert ours.save_for_open_clip(target) == "whitespace"
    same(ours, transformers().AutoTokenizer.from_pretrained(target), TRICKY + fuzzed(300, seed=7))


def test_only_unigram_models_are_converted() -> None:
    model = io.BytesIO()
    lines = iter([line.lower() for line in corpus()])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=400, model_type="bpe", minloglevel=2
    )
    with pytest.raises(IntegrityError, match="unigram"):
        pieces_to_json(model.getvalue())
    with pytest.raises(IntegrityError, match="cut off"):
        pieces_to_json(model.getvalue()[:-1])


def test_rows_end_and_are_filled_up_and_counted(spiece: Path) -> None:
    ours = SiglipTokenizer.load(spiece, context_length=8)
    rows = ours.tokens(["a dog", "word " * 50, "</s>"])
    assert rows.shape == (3, 8) and rows.dtype == np.int64
    assert (rows[1] == 1).sum() == 1 and rows[1, -1] == 1
    assert (rows[2] == 1).all()
    assert ours.counts.as_dict() == {"texts": 3, "truncated": 1, "capped": 0, "special": 1}
    assert ours.tokens([]).shape == (0, 8)


def test_ids_are_decoded_up_to_the_end(spiece: Path, gemma: Any, tmp_path: Path) -> None:
    ours = SiglipTokenizer.load(spiece)
    assert ours.decode(ours.tokens(["the loss of a model"])[0]) == "the loss of a model"
    lower = SiglipTokenizer.load(gemma_folder("Siglip2Tokenizer", gemma, tmp_path))
    assert lower.decode(lower.tokens(["The loss, 日本"])[0]) == "the loss, 日本"
    assert lower.encode("a") == lower.tokens(["a"])[0, : len(lower.encode("a"))].tolist()
    with pytest.raises(UsageError, match="no such token id"):
        ours.decode([PIECES_SIZE])


def test_another_process_gets_the_same_tokenizer(spiece: Path, gemma: Any, tmp_path: Path) -> None:
    for folder in (spiece, gemma_folder("Siglip2Tokenizer", gemma, tmp_path)):
        ours = SiglipTokenizer.load(folder, context_length=12)
        copy = pickle.loads(pickle.dumps(ours))
        assert np.array_equal(copy.tokens(TRICKY), ours.tokens(TRICKY))


def test_ids_that_the_model_does_not_know_are_refused(spiece: Path) -> None:
    """mT5's vocabulary has 100 ids more than SigLIP i18n's embedding."""
    ours = SiglipTokenizer.load(spiece, vocab_size=20)
    assert ours.vocab_size == 20
    with pytest.raises(UsageError, match="ids below 20"):
        ours.tokens(["photograph of a quokka"])


def test_half_a_surrogate_pair_is_no_crash(spiece: Path) -> None:
    ours = SiglipTokenizer.load(spiece)
    assert np.array_equal(ours.tokens(["a \ud83d dog"]), ours.tokens(["a ? dog"]))


def test_mistakes_are_told(spiece: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        SiglipTokenizer.load(tmp_path, cleaning="siglip")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(IntegrityError, match="pass cleaning"):
        SiglipTokenizer.load(tmp_path)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json"):
        SiglipTokenizer.load(tmp_path, cleaning="lower")
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(IntegrityError, match="JSON object"):
        SiglipTokenizer.load(tmp_path)
    with pytest.raises(UsageError, match="list of texts"):
        SiglipTokenizer.load(spiece).tokens("a dog")
    with pytest.raises(UsageError, match="too short"):
        SiglipTokenizer.load(spiece, context_length=1)
    with pytest.raises(UnknownNameError, match="<eos>"):
        SiglipTokenizer(SiglipTokenizer.load(spiece).engine, cleaning="siglip", end_token="<eos>")


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_a_damaged_spiece_model_is_refused_or_still_complete(
    pieces: bytes, keep: int, tmp_path: Path
) -> None:
    (tmp_path / "spiece.model").write_bytes(pieces[:keep])
    with pytest.raises((IntegrityError, UnknownNameError)):
        SiglipTokenizer.load(tmp_path, cleaning="siglip")


def edited(source: Path, folder: Path, **changes: Any) -> Path:
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"padding_side": "left"}, {"truncation_side": "left"}, {"split_special_tokens": True},
        {"do_lower_case": False}, {"add_bos_token": True}, {"add_eos_token": False},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_change_ids_are_refused_by_name(
    changes: dict[str, Any], spiece: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        SiglipTokenizer.load(edited(spiece, tmp_path, **changes))
    assert next(iter(changes)) in error.value.where


def test_tokens_added_to_spiece_model_are_refused_by_name(spiece: Path, tmp_path: Path) -> None:
    theirs = transformers().SiglipTokenizer.from_pretrained(spiece)
    theirs.add_tokens(["<cat-toy>"])
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="<cat-toy>"):
        SiglipTokenizer.load(tmp_path)


def test_tokens_added_to_siglip_2_are_those_of_transformers(gemma: Any, tmp_path: Path) -> None:
    theirs = transformers().AutoTokenizer.from_pretrained(gemma_folder("Siglip2Tokenizer", gemma, tmp_path))
    theirs.add_tokens(["<Cat-toy>", AddedToken("<Raw>", normalized=False)])
    theirs.save_pretrained(tmp_path / "added")
    ours = SiglipTokenizer.load(tmp_path / "added")
    assert ours.added == ("<Cat-toy>", "<Raw>") and ours.vocab_size == len(theirs)
    texts = ["a <cat-toy> DOG", "<Raw><RAW> <raw>", "A<Cat-Toy>b"]
    same(ours, theirs, [*texts, *TRICKY])
    assert len(theirs) - 1 in ours.tokens(texts)
