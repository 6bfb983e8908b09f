"""Vocabularies that are not the published one: added tokens, ids told or not, rows beyond the tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.published import ALONE, WORDS, open_clip_folder, theirs, with_rows
from tests.models.test_transformers_files import clip_model, edit, processor, saved

from diptych.core.errors import SettingsError, UsageError
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.formats.convert import PARITY, convert
from diptych.models.load import load
from diptych.models.model import Model
from diptych.models.verification import CAPTIONS, reference_arrays

ADDED = ("<cat-toy>", "Blue Circle", "<s1>")
TEXTS = ["a photo of a <cat-toy>", "two blue  circle", "A Blue Circle<S1>!", "a red dog <s1><cat-toy>", ""]


def with_added(folder: Path, **text: Any) -> Path:
    """Write transformers' model of a vocabulary with three tokens more."""
    model = clip_model(text={"vocab_size": WORDS.vocab_size + len(ADDED), **text})
    saved(folder, model)
    whole = processor(folder)
    whole.tokenizer.add_tokens(list(ADDED))
    whole.save_pretrained(folder)
    return folder


def reads_as_transformers(ours: Model, folder: Path, texts: list[str] = TEXTS) -> None:
    from transformers import AutoTokenizer, CLIPModel

    inputs = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=20, return_tensors="pt"
    )
    with torch.no_grad():
        actual = CLIPModel.from_pretrained(folder).eval().get_text_features(**inputs).pooler_output
    expected = torch.nn.functional.normalize(actual, dim=-1)
    assert (expected[0] - expected[1]).abs().max() > 1e-2, "the tower looks at its input"
    assert (ours.encode_text(ours.tokenize(texts), normalize=True) - expected).abs().max() < 1e-5


def test_added_tokens_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    folder = with_added(tmp_path / "clip")
    reads_as_transformers(load(folder), folder)


@pytest.mark.parametrize("to", ["diptych", "open_clip", "transformers"])
def test_conversion_keeps_added_tokens_and_its_parity_check_reads_each(to: Any, tmp_path: Path) -> None:
    folder = with_added(tmp_path / "clip")
    convert(load(folder), tmp_path / "out", to)
    back = load(tmp_path / "out")
    reads_as_transformers(back, folder)
    report = json.loads((tmp_path / "out" / PARITY).read_text())
    assert report["captions"] == len(CAPTIONS) + 1
    if to == "transformers":
        reads_as_transformers(back, tmp_path / "out")


def test_reference_texts_hold_every_added_token(tmp_path: Path) -> None:
    model = load(with_added(tmp_path / "clip"))
    held = set(reference_arrays(model)["tokens"].flatten().tolist())
    assert {WORDS.vocab_size, WORDS.vocab_size + 1, WORDS.vocab_size + 2} <= held


def test_openais_code_is_not_given_added_tokens(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fixed there"):
        convert(load(with_added(tmp_path / "clip")), tmp_path / "out", "openai")


def test_an_end_token_that_is_not_told_is_not_guessed_among_added_ones(tmp_path: Path) -> None:
    folder = with_added(tmp_path / "clip", eos_token_id=2)  # transformers reads at the largest id then
    with pytest.raises(SettingsError, match="eos_token_id"):
        load(folder)


def test_a_start_token_of_zero_is_followed_as_transformers_does(tmp_path: Path) -> None:
    folder = saved(tmp_path / "clip", clip_model(text={"bos_token_id": 0}))
    ours = load(folder)
    assert ours.config.text.start_id == WORDS.start_id
    reads_as_transformers(ours, folder)


def test_rows_beyond_the_vocabulary_are_left_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "clip", clip_model(text={"vocab_size": 576}))
    ours = load(folder)
    assert ours.config.text.vocab_size == WORDS.vocab_size
    assert ours.provenance["unused_vocabulary_rows"] == 576 - WORDS.vocab_size
    reads_as_transformers(ours, folder)
    convert(ours, tmp_path / "out", "open_clip")
    reads_as_transformers(load(tmp_path / "out"), folder)


def test_a_smaller_vocabulary_without_a_told_end_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "clip", clip_model(text={"vocab_size": 576}))
    edit(folder / "config.json", text_config__eos_token_id=2)
    with pytest.raises(SettingsError, match="vocab_size"):
        load(folder)


def test_the_published_vocabulary_fits_padded_rows_alone(tmp_path: Path, shared_data: Path) -> None:
    words = Tokenizer.from_merges(
        shared_data / "text" / "bpe_simple_vocab_16e6.txt.gz", context_length=WORDS.context_length
    )
    state = theirs()
    state["token_embedding.weight"] = torch.randn(49_472, 64, generator=torch.Generator().manual_seed(0))
    torch.save(state, tmp_path / "padded.pt")
    given = ALONE | {"tokenizer": words}
    padded = load(tmp_path / "padded.pt", **given | {"config": with_rows(49_472)})
    state["token_embedding.weight"] = state["token_embedding.weight"][:49_408].clone()
    torch.save(state, tmp_path / "cut.pt")
    cut = load(tmp_path / "cut.pt", **given | {"config": with_rows(49_408)})
    assert padded.config == cut.config
    tokens = words.tokens(["a photo of a dog", "two"])
    assert torch.equal(
        padded.encode_text(torch.from_numpy(tokens), normalize=True),
        cut.encode_text(torch.from_numpy(tokens), normalize=True),
    )


def test_open_clips_argmax_is_not_followed_to_an_added_token(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    def grow(document: dict[str, Any]) -> None:
        document["model_cfg"]["text_cfg"]["vocab_size"] += 1

    folder = open_clip_folder(tmp_path / "hub", grow)
    words = CLIPTokenizer.from_pretrained(folder)
    words.add_tokens(["<cat-toy>"])
    words.save_pretrained(folder)
    state = theirs()
    state["token_embedding.weight"] = torch.cat([state["token_embedding.weight"], torch.ones(1, 64)])
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(SettingsError, match="largest id") as error:
        load(folder)
    assert "pool_type" in str(error.value)


def test_a_shorter_length_of_the_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    """transformers cuts texts (and fills SigLIP's) at `model_max_length`."""
    folder = saved(tmp_path / "clip", clip_model())
    for length in (10**30, 77):
        edit(folder / "tokenizer_config.json", model_max_length=length)
        reads_as_transformers(load(folder), folder)
    edit(folder / "tokenizer_config.json", model_max_length=12)
    with pytest.raises(UsageError, match="model_max_length"):
        load(folder)
    assert load(folder, tokenizer=WORDS).tokenizer.context_length == 20
