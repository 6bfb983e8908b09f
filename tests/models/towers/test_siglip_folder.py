"""A SigLIP folder of transformers is loaded, converted, kept, exported, and is the same model each time."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from diptych.core.errors import UnknownNameError, UsageError
from diptych.data.tokenizers.siglip import SiglipTokenizer
from diptych.models.formats.convert import convert
from diptych.models.model import Model
from diptych.models.verification import CAPTIONS, reference_images

sentencepiece = pytest.importorskip("sentencepiece")

CONTEXT, PIECES, SIDE = 16, 120, 48
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let transformers write a small model with random weights, its words and its image processor."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer as Theirs

    folder, raw = tmp_path_factory.mktemp("siglip"), io.BytesIO()
    lines = [caption.lower() for caption in CAPTIONS if caption] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=raw, vocab_size=PIECES, model_type="unigram", pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "raw.model").write_bytes(raw.getvalue())
    words = Theirs(str(folder / "raw.model"), model_max_length=CONTEXT)
    (folder / "raw.model").unlink()
    words.save_pretrained(folder)
    towers = {"hidden_size": 48, "intermediate_size": 115, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {"vocab_size": len(words), "max_position_embeddings": CONTEXT, "projection_size": 48}
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config=towers | text, vision_config=towers | {"image_size": SIDE, "patch_size": 16}
    )
    model = SiglipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.15)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def images() -> list[Image.Image]:
    return [Image.fromarray(image) for image in reference_images((SIDE, SIDE))]


def peers_embeds(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return transformers' image_embeds, text_embeds and logits_per_image for images and captions."""
    from transformers import SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer as Theirs

    tokenizer, processor = Theirs.from_pretrained(folder), SiglipImageProcessorPil.from_pretrained(folder)
    ids = tokenizer(list(CAPTIONS), padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    with torch.no_grad():
        found = SiglipModel.from_pretrained(folder).eval()(
            input_ids=torch.tensor(ids), pixel_values=processor(images(), return_tensors="pt")["pixel_values"]
        )
    return found.image_embeds, found.text_embeds, found.logits_per_image


def embeds(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [model.encode(items, normalize_embeddings=True) for items in
            (images(), list(CAPTIONS))]  # fmt: skip
    return torch.from_numpy(rows[0]), torch.from_numpy(rows[1])


def near(one: Any, folder: Path) -> None:
    for found, expected in zip(embeds(one), peers_embeds(folder)[:2], strict=True):
        assert (expected[0] - expected[1]).abs().max() > 1e-2, "the tower looks at its input"
        assert (found - expected).abs().max() < TOLERANCE


def test_folder_of_transformers_is_the_same_model(written: Path) -> None:
    model = diptych.load(written)
    assert isinstance(model.tokenizer, SiglipTokenizer)
    assert (model.preprocess.resize, model.preprocess.mean) == ("squash", (0.5, 0.5, 0.5))
    near(model, written)
    found, expected = model.logits(images(), list(CAPTIONS)), peers_embeds(written)[2]
    assert (found - expected).abs().max() < 1e-4
    assert model.bias != 0
    for kind in (found, found.numpy()):
        shares = torch.as_tensor(model.probabilities(kind))
        assert (shares - expected.sigmoid()).abs().max() < 1e-5
    rows = model.encode(list(CAPTIONS), normalize_embeddings=True)
    assert np.abs(rows - peers_embeds(written)[1].numpy()).max() < TOLERANCE


def test_classify_says_whether_each_name_fits_by_itself(written: Path, tmp_path: Path) -> None:
    from diptych.cli.queries import classify_images

    names = list(CAPTIONS[1:4])
    images()[0].save(tmp_path / "0.png")
    (found,), unreadable = classify_images(str(written), [tmp_path / "0.png"], names, "")
    assert not unreadable.dropped
    expected = peers_embeds(written)[2][0, 1:4].sigmoid()
    shares = {entry["label"]: entry["probability"] for entry in found["labels"]}
    for name, share in zip(names, expected.tolist(), strict=True):
        assert shares[name] == pytest.approx(share, abs=1e-3)


def test_our_own_folder_keeps_words_and_padding(written: Path, tmp_path: Path) -> None:
    convert(diptych.load(written), tmp_path / "ours", "diptych")
    model = diptych.load(tmp_path / "ours")
    near(model, written)
    assert model.digest == diptych.load(written).digest


def test_padding_of_another_vocabulary_is_refused(written: Path) -> None:
    model = diptych.load(written)
    other = SiglipTokenizer(
        model.tokenizer.engine, cleaning="siglip", pad_token="<unk>", context_length=CONTEXT,
        vocab_size=model.tokenizer.vocab_size,
    )  # fmt: skip
    with pytest.raises(diptych.DiptychError, match="tokenizer and text tower do not fit"):
        Model(model.clip, other, model.preprocess)


@pytest.fixture(scope="module")
def exported(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diptych.export.onnx import export

    folder = tmp_path_factory.mktemp("exported") / "siglip"
    export(diptych.load(written), folder)
    return folder


def test_an_export_has_the_same_methods_and_numbers(written: Path, exported: Path) -> None:
    model, torchs = diptych.load(exported, backend="onnx"), diptych.load(written)
    near(model, written)
    mixed = [CAPTIONS[1], images()[0], CAPTIONS[0], images()[1]]
    assert np.abs(model.encode(mixed) - torchs.encode(mixed)).max() < 1e-4
    assert (
        np.abs(np.asarray(model.logits(images(), list(CAPTIONS))) - peers_embeds(written)[2].numpy()).max()
        < 1e-3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "torch"}, "torch does not read exports"),
        ({"activation": "gelu"}, "an export says all of this itself"),
        ({"preprocess": "clip"}, "an export says all of this itself"),
    ],
)
def test_what_an_export_cannot_be_told_is_refused(exported: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        diptych.load(exported, **options)


def test_backends_are_of_exports_only(written: Path) -> None:
    with pytest.raises(UsageError, match="only an export runs on onnx") as caught:
        diptych.load(written, backend="onnx")
    assert "diptych export" in str(caught.value)
    with pytest.raises(UnknownNameError, match="backend"):
        diptych.load(written, backend="tensorrt")  # type: ignore[arg-type]
