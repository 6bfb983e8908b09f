"""What `convert --to openai` writes is what OpenAI's own `clip.load` opens."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.published import ALONE, openai_clip, with_rows

from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.formats.convert import OPENAI_WEIGHTS, convert
from diptych.models.load import load
from diptych.models.model import Model

CONTEXT = 20


@pytest.fixture(scope="module")
def words(shared_data: Path) -> Tokenizer:
    return Tokenizer.from_merges(
        shared_data / "text" / "bpe_simple_vocab_16e6.txt.gz", context_length=CONTEXT
    )


def theirs() -> Any:
    """Return OpenAI's CLIP by the paper, with the published vocabulary."""
    model = openai_clip()
    model.token_embedding = torch.nn.Embedding(49_408, 64)
    return model.eval()


@pytest.fixture(scope="module")
def written(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Model]:
    folder, model = tmp_path_factory.mktemp("openai"), theirs()
    torch.save(model.state_dict(), folder / "state.pt")
    stated = ALONE | {"tokenizer": words, "config": with_rows(49_408)}
    ours = load(folder / "state.pt", **stated)
    convert(ours, folder / "out", "openai")
    return model, folder / "out" / OPENAI_WEIGHTS, ours


def as_clip_load_reads(path: Path) -> dict[str, torch.Tensor]:
    """Return what the first lines of openai/CLIP's `clip.load` hand to `build_model`."""
    with path.open("rb") as opened_file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = torch.jit.load(opened_file, map_location="cpu").eval()
            state = dict(model.state_dict())
            for key in ("input_resolution", "context_length", "vocab_size"):  # as in build_model
                del state[key]
            return state
        except RuntimeError:
            return torch.load(opened_file, map_location="cpu")  # of a zip file: EOFError


def test_clip_load_finds_every_tensor(written: tuple[Any, Path, Model]) -> None:
    model, path, ours = written
    state = as_clip_load_reads(path)
    again = theirs()
    again.load_state_dict(state)  # strict, as in build_model
    tokens = ours.tokenize(["a photo of a dog", "two blue squares"])
    with torch.no_grad():
        assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())


def test_the_archive_says_its_activation_and_preprocessing(
    written: tuple[Any, Path, Model], words: Tokenizer
) -> None:
    model, path, ours = written
    back = load(path, tokenizer=words)
    assert back.config == ours.config and back.preprocess == ours.preprocess
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.visual(pixels), dim=-1)
    assert (back.encode_image(pixels, normalize=True) - expected).abs().max() < 1e-5


def test_a_file_of_torch_save_is_what_clip_load_cannot_read(tmp_path: Path) -> None:
    torch.save(theirs().state_dict(), tmp_path / "state.pt")
    with pytest.raises(EOFError):
        as_clip_load_reads(tmp_path / "state.pt")
