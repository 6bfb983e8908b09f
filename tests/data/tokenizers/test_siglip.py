"""SigLIP's ids beside those of transformers and of open_clip's clean-up, with vocabularies trained here."""

import html
import io
import json
import pickle
import random
import shutil
import string
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.peers import transformers

from diptych.core.errors import DataError, IntegrityError, UnknownNameError, UsageError
from diptych.data.tokenizers.siglip import SiglipTokenizer
from diptych.data.tokenizers.siglip_engines import PieceEngine
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


@cache
def corpus() -> list[str]:
    files = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line][:2000]


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


def trained(**settings: Any) -> bytes:
    """Train a model of sentencepiece."""
    import sentencepiece

    model, lines = io.BytesIO(), iter([line.lower() for line in corpus()])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, num_threads=1, minloglevel=2, **settings
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def pieces():
    """Train a unigram model with the normalizer and the ids of SigLIP's."""
    return trained(vocab_size=PIECES_SIZE, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


@pytest.fixture(scope="module")
def spiece(pieces, tmp_path_factory):
    """Save it as transformers does."""
    folder = tmp_path_factory.mktemp("spiece")
    (folder / "raw.model").write_bytes(pieces)
    transformers().SiglipTokenizer(str(folder / "raw.model")).save_pretrained(folder)
    assert (folder / "spiece.model").is_file()
    return folder


@pytest.fixture(scope="module")
def gemma():
    """Train merges with Gemma's special tokens in front; return how a class of transformers saves them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    engine = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    engine.normalizer = normalizers.Replace(" ", "▁")
    engine.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    symbols = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=symbols, show_progress=False)
    engine.train_from_iterator(corpus(), trainer)
    model = json.loads(engine.to_str())["model"]

    def saved(kind: str, folder: Path) -> Path:
        merges = [(left, right) for left, right in model["merges"]]
        theirs = getattr(transformers(), kind)(vocab=model["vocab"], merges=merges, padding_side="right")
        theirs._tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", model["vocab"]["<eos>"])]
        )
        theirs.save_pretrained(folder)
        return folder

    return saved


@pytest.fixture(scope="module")
def t5_json(pieces, tmp_path_factory):
    """Build what open_clip's tokenizer.json holds: a unigram model behind the model's own normalizer."""
    import sentencepiece
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    engine = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    vocab = [(engine.id_to_piece(i), engine.get_score(i)) for i in range(engine.get_piece_size())]
    built = Tokenizer(models.Unigram(vocab, unk_id=2))
    built.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    ends = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "padding_side": "right"}
    folder = tmp_path_factory.mktemp("t5")
    transformers().PreTrainedTokenizerFast(tokenizer_object=built, **ends).save_pretrained(folder)
    return folder


def ids_of(theirs: Any, texts: list[str]) -> np.ndarray:
    actual = theirs(texts, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    return np.array(actual, dtype=np.int64)


def same(ours: SiglipTokenizer, theirs: Any, texts: list[str]) -> None:
    actual, expected = ours.tokens(texts), ids_of(theirs, texts)
    wrong = np.flatnonzero((actual != expected).any(axis=1))
    assert wrong.size == 0, [(texts[row], actual[row][:12], expected[row][:12]) for row in wrong[:3]]


def read_back(folder: Path, save: Any) -> tuple[Any, SiglipTokenizer]:
    """Save into a new folder; return how transformers and how we load that."""
    folder.mkdir()
    save(folder)
    (folder / "config.json").write_text('{"model_type": "siglip"}')
    return transformers().AutoTokenizer.from_pretrained(folder), SiglipTokenizer.load(folder)


def test_ids_of_spiece_model_are_those_of_transformers(spiece):
    ours = SiglipTokenizer.load(spiece)
    assert (ours.cleaning, ours.end_id, ours.pad_id, ours.start_id) == ("siglip", 1, 1, NO_TOKEN)
    assert (ours.vocab_size, ours.context_length) == (PIECES_SIZE, CONTEXT)
    theirs = transformers().SiglipTokenizer.from_pretrained(spiece)
    same(ours, theirs, TRICKY + fuzzed(3000, seed=0) + corpus())


def test_ids_of_spiece_model_are_those_of_transformers_on_real_captions(spiece, shared_data):
    annotations = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    captions = [annotation["caption"] for annotation in annotations][:5000]
    theirs = transformers().SiglipTokenizer.from_pretrained(spiece)
    same(SiglipTokenizer.load(spiece), theirs, captions)


@pytest.mark.parametrize(("kind", "cleaning"), [("Siglip2Tokenizer", None), ("GemmaTokenizer", "none")])
def test_ids_of_gemmas_vocabulary_are_those_of_transformers(kind, cleaning, gemma, tmp_path):
    folder = gemma(kind, tmp_path)
    ours = SiglipTokenizer.load(folder, cleaning=cleaning, context_length=CONTEXT)
    assert ours.cleaning == (cleaning or "lower")
    assert (ours.end_id, ours.pad_id, ours.start_id) == (1, 0, NO_TOKEN)
    same(
        ours, getattr(transformers(), kind).from_pretrained(folder), TRICKY + fuzzed(3000, seed=2) + corpus()
    )


def test_what_we_save_is_loaded_by_transformers_and_by_us(spiece, tmp_path):
    ours, texts = SiglipTokenizer.load(spiece), TRICKY + fuzzed(300, seed=1)
    theirs, again = read_back(tmp_path / "saved", ours.save)
    assert (tmp_path / "saved" / "spiece.model").read_bytes() == (spiece / "spiece.model").read_bytes()
    same(ours, theirs, texts)
    assert np.array_equal(again.tokens(texts), ours.tokens(texts))


@pytest.mark.parametrize(
    ("kind", "cleaning", "save"),
    [("GemmaTokenizer", "lower", "transformers"), ("GemmaTokenizer", "none", "transformers"),
     ("Siglip2Tokenizer", None, "open_clip")],
)  # fmt: skip
def test_saved_files_of_gemmas_vocabulary_need_no_further_argument(kind, cleaning, save, gemma, tmp_path):
    folder = gemma(kind, tmp_path / "source")
    ours = SiglipTokenizer.load(folder, cleaning=cleaning, context_length=CONTEXT)
    theirs, again = read_back(tmp_path / "target", getattr(ours, f"save_for_{save}"))
    texts = TRICKY + fuzzed(300, seed=3)
    same(ours, theirs, texts)
    assert np.array_equal(again.tokens(texts), ours.tokens(texts))


def test_gemmas_class_means_lower_case(gemma, tmp_path):
    """transformers' GemmaTokenizer keeps capitals, with which SigLIP 2 never learned."""
    ours = SiglipTokenizer.load(gemma("GemmaTokenizer", tmp_path))
    assert np.array_equal(ours.tokens(["A Big DOG"]), ours.tokens(["a big dog"]))


def open_clips_canonicalize(text: str) -> str:
    """Write open_clip's chain down once more: repair, unescape twice, canonicalize."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text))).replace("_", " ")
    text = "".join(letter for letter in text if letter not in string.punctuation)
    return " ".join(text.lower().split())


def test_open_clips_clean_up_is_the_same_chain(t5_json, tmp_path):
    texts = TRICKY + fuzzed(500, seed=4)
    ours = SiglipTokenizer.load(t5_json, cleaning="open_clip", context_length=CONTEXT)
    theirs = transformers().PreTrainedTokenizerFast.from_pretrained(t5_json)
    expected = ids_of(theirs, [open_clips_canonicalize(text) for text in texts])
    assert np.array_equal(ours.tokens(texts), expected)
    with pytest.raises(UsageError, match='cleaning="siglip"'):
        ours.save_for_transformers(tmp_path)


def test_a_self_contained_file_cleans_as_siglip_does(t5_json, tmp_path):
    ours = SiglipTokenizer.load(t5_json, cleaning="siglip", context_length=CONTEXT)
    theirs, _ = read_back(tmp_path / "target", ours.save_for_transformers)
    # Python gives a Greek word a final sigma, the engine does not. Special tokens are split off beforehand.
    same(ours, theirs, [text for text in TRICKY + fuzzed(300, seed=5) if "Σ" not in text and "<" not in text])


def test_pieces_become_the_tokenizer_json_that_transformers_makes(spiece, pieces, tmp_path):
    (tmp_path / "spiece.model").write_bytes(pieces)
    ends = {"extra_ids": 0, "pad_token": "</s>", "padding_side": "right"}
    theirs = transformers().T5Tokenizer.from_pretrained(tmp_path, **ends)
    ours = SiglipTokenizer.load(spiece, cleaning="open_clip")
    saved, again = read_back(tmp_path / "target", ours.save_for_open_clip)
    assert ours.save_for_open_clip(tmp_path / "target") == "canonicalize"
    texts = [open_clips_canonicalize(text) for text in TRICKY + fuzzed(2000, seed=6) + corpus()]
    expected = ids_of(theirs, texts)
    assert np.array_equal(ids_of(saved, texts), expected)
    assert again.cleaning == "open_clip"
    assert np.array_equal(again.tokens(texts), expected)


def test_only_unigram_models_are_converted():
    model = trained(vocab_size=400, model_type="bpe")
    with pytest.raises(IntegrityError, match="unigram"):
        PieceEngine(model, cleaning="siglip").as_json()


def test_rows_end_and_are_filled_up_and_counted(spiece):
    ours = SiglipTokenizer.load(spiece, context_length=8)
    rows = ours.tokens(["a dog", "word " * 50, "</s>"])
    assert rows.shape == (3, 8) and rows.dtype == np.int64
    assert (rows[1] == 1).sum() == 1 and rows[1, -1] == 1
    assert (rows[2] == 1).all()
    assert astuple(ours.counts) == (3, 1, 0, 1)  # texts, truncated, capped, special
    assert ours.tokens([]).shape == (0, 8)
    assert np.array_equal(ours.tokens(["a \ud83d dog"]), ours.tokens(["a ? dog"]))  # half a surrogate pair


def test_ids_are_decoded_up_to_the_end(spiece, gemma, tmp_path):
    ours = SiglipTokenizer.load(spiece)
    assert ours.decode(ours.tokens(["the loss of a model"])[0]) == "the loss of a model"
    lower = SiglipTokenizer.load(gemma("Siglip2Tokenizer", tmp_path))
    assert lower.decode(lower.tokens(["The loss, 日本"])[0]) == "the loss, 日本"
    assert lower.encode("a") == lower.tokens(["a"])[0, : len(lower.encode("a"))].tolist()
    for tokenizer in (ours, lower):  # as another process gets it
        assert np.array_equal(pickle.loads(pickle.dumps(tokenizer)).tokens(TRICKY), tokenizer.tokens(TRICKY))


def test_mistakes_are_told(spiece, tmp_path):
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
    ours = SiglipTokenizer.load(spiece)
    with pytest.raises(UsageError, match="list of texts"):
        ours.tokens("a dog")
    with pytest.raises(UsageError, match="no such token id"):
        ours.decode([PIECES_SIZE])
    with pytest.raises(UsageError, match="too short"):
        SiglipTokenizer.load(spiece, context_length=1)
    with pytest.raises(UnknownNameError, match="<eos>"):
        SiglipTokenizer(ours.engine, end_token="<eos>")
    few = SiglipTokenizer.load(
        spiece, vocab_size=20
    )  # mT5's vocabulary has 100 ids more than SigLIP i18n's tower
    assert few.vocab_size == 20
    with pytest.raises(UsageError, match="ids below 20"):
        few.tokens(["photograph of a quokka"])


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_a_damaged_spiece_model_is_refused(pieces, keep, tmp_path):
    (tmp_path / "spiece.model").write_bytes(pieces[:keep])
    with pytest.raises((IntegrityError, UnknownNameError)):
        SiglipTokenizer.load(tmp_path, cleaning="siglip")


@pytest.mark.parametrize(
    "changes",
    [
        {"padding_side": "left"}, {"truncation_side": "left"}, {"split_special_tokens": True},
        {"do_lower_case": False}, {"add_bos_token": True}, {"add_eos_token": False},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_change_ids_are_refused_by_name(changes, spiece, tmp_path):
    shutil.copytree(spiece, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UsageError) as error:
        SiglipTokenizer.load(tmp_path)
    assert next(iter(changes)) in error.value.where


def test_tokens_added_to_spiece_model_are_refused_by_name(spiece, tmp_path):
    theirs = transformers().SiglipTokenizer.from_pretrained(spiece)
    theirs.add_tokens(["<cat-toy>"])
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="<cat-toy>"):
        SiglipTokenizer.load(tmp_path)


def test_tokens_added_to_siglip_2_are_those_of_transformers(gemma, tmp_path):
    from tokenizers import AddedToken

    theirs = transformers().AutoTokenizer.from_pretrained(gemma("Siglip2Tokenizer", tmp_path))
    theirs.add_tokens(["<Cat-toy>", AddedToken("<Raw>", normalized=False)])
    theirs.save_pretrained(tmp_path / "added")
    ours = SiglipTokenizer.load(tmp_path / "added")
    assert ours.added == ("<Cat-toy>", "<Raw>") and ours.vocab_size == len(theirs)
    texts = ["a <cat-toy> DOG", "<Raw><RAW> <raw>", "A<Cat-Toy>b"]
    same(ours, theirs, [*texts, *TRICKY])
    assert len(theirs) - 1 in ours.tokens(texts)
