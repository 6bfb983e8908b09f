"""A SigLIP folder of transformers is loaded, converted, kept, exported, and is the same model each time."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from tests.models.families import words
from torch import Tensor
from torch.nn import functional as F

import diptych
from diptych.cli.queries import classify_images
from diptych.core.errors import UnknownNameError, UsageError
from diptych.data.tokenizers.siglip import SiglipTokenizer
from diptych.export.onnx import export
from diptych.models.formats.convert import convert
from diptych.models.model import Model
from diptych.models.verification import CAPTIONS, reference_images

CONTEXT, SIDE = 16, 48
IMAGES = [Image.fromarray(image) for image in reference_images((SIDE, SIDE))]
TEXTS = list(CAPTIONS)


class Peer(NamedTuple):
    """A folder that transformers wrote, and what its own model makes of the images and captions."""

    folder: Path
    image: Tensor
    text: Tensor
    logits: Tensor


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """Let transformers write a small model with random weights, its words and its image processor."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = tmp_path_factory.mktemp("siglip") / "model"
    tokenizer = words("SigLIP", "transformers", folder)
    towers = {"hidden_size": 48, "intermediate_size": 115, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "projection_size": 48}
    vision = {"image_size": SIDE, "patch_size": 16}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=towers | text, vision_config=towers | vision)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.15)
    model.save_pretrained(folder)
    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    pixels = processor(IMAGES, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = model(input_ids=torch.tensor(ids), pixel_values=pixels)
    for rows in (found.image_embeds, found.text_embeds):
        assert (rows[0] - rows[1]).abs().max() > 1e-2, "the tower looks at its input"
    return Peer(folder, found.image_embeds, found.text_embeds, found.logits_per_image)


def near(model: Any, peer: Peer) -> None:
    for given, expected in ((IMAGES, peer.image), (TEXTS, peer.text)):
        found = model.encode(given, normalize_embeddings=True)
        assert np.abs(found - expected.numpy()).max() < 1e-5


def test_folder_of_transformers_is_the_same_model(peer: Peer, tmp_path: Path) -> None:
    model = diptych.load(peer.folder)
    assert isinstance(model.tokenizer, SiglipTokenizer)
    assert (model.preprocess.resize, model.preprocess.mean) == ("squash", (0.5, 0.5, 0.5))
    near(model, peer)
    found = model.logits(IMAGES, TEXTS)
    assert (found - peer.logits).abs().max() < 1e-4 and model.bias != 0
    for kind in (found, found.numpy()):
        probabilities = torch.as_tensor(model.probabilities(kind))
        assert (probabilities - peer.logits.sigmoid()).abs().max() < 1e-5
    convert(model, tmp_path / "ours", "diptych")
    kept = diptych.load(tmp_path / "ours")
    near(kept, peer)
    assert kept.digest == model.digest


def test_positions_stretched_to_another_size_have_no_class_token_before_them(peer: Peer) -> None:
    from transformers import SiglipModel

    ours, theirs = diptych.load(peer.folder, image_size=64), SiglipModel.from_pretrained(peer.folder).eval()
    embedding = theirs.vision_model.embeddings.position_embedding
    grid = embedding.weight.detach().T.reshape(1, -1, 3, 3)
    grid = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True, align_corners=False)
    embedding.weight = torch.nn.Parameter(grid.reshape(-1, 16).T)
    theirs.vision_model.embeddings.position_ids = torch.arange(16)[None]
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = F.normalize(theirs.vision_model(pixels).pooler_output, dim=-1)
    assert (ours.encode_image(pixels, normalize=True) - expected).abs().max() < 1e-5


def test_classify_says_whether_each_name_fits_by_itself(peer: Peer, tmp_path: Path) -> None:
    IMAGES[0].save(tmp_path / "0.png")
    (found,), unreadable = classify_images(str(peer.folder), [tmp_path / "0.png"], TEXTS[1:4], "")
    assert not unreadable.dropped
    probabilities = {entry["label"]: entry["probability"] for entry in found["labels"]}
    for name, expected in zip(TEXTS[1:4], peer.logits[0, 1:4].sigmoid().tolist(), strict=True):
        assert probabilities[name] == pytest.approx(expected, abs=1e-3)


def test_padding_of_another_vocabulary_is_refused(peer: Peer) -> None:
    model = diptych.load(peer.folder)
    size = model.tokenizer.vocab_size
    other = SiglipTokenizer(
        model.tokenizer.engine, pad_token="<unk>", context_length=CONTEXT, vocab_size=size
    )
    with pytest.raises(diptych.DiptychError, match="tokenizer and text tower do not fit"):
        Model(model.clip, other, model.preprocess)


def test_an_export_has_the_same_methods_and_numbers_and_is_told_nothing(peer: Peer, tmp_path: Path) -> None:
    original = diptych.load(peer.folder)
    export(original, tmp_path / "out")
    model = diptych.load(tmp_path / "out", backend="onnx")
    near(model, peer)
    mixed = [TEXTS[1], IMAGES[0], TEXTS[0], IMAGES[1]]
    assert np.abs(model.encode(mixed) - original.encode(mixed)).max() < 1e-4
    assert np.abs(np.asarray(model.logits(IMAGES, TEXTS)) - peer.logits.numpy()).max() < 1e-3
    options: list[tuple[dict[str, Any], str]] = [
        ({"backend": "torch"}, "torch does not read exports"),
        ({"activation": "gelu"}, "an export says all of this itself"),
        ({"preprocess": "clip"}, "an export says all of this itself"),
    ]
    for given, message in options:
        with pytest.raises(UsageError, match=message):
            diptych.load(tmp_path / "out", **given)


def test_backends_are_of_exports_only(peer: Peer) -> None:
    with pytest.raises(UsageError, match=r"only an export runs on onnx[\s\S]*diptych export"):
        diptych.load(peer.folder, backend="onnx")
    with pytest.raises(UnknownNameError, match="backend"):
        diptych.load(peer.folder, backend="tensorrt")  # type: ignore[arg-type]
