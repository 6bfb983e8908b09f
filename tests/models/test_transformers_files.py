"""What transformers saved loads as the same model; what we wrote is loaded by its `from_pretrained`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.models.published import WORDS

from diptych.core.errors import IntegrityError, UsageError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.cleaning import clean
from diptych.models import checkpoint
from diptych.models.formats.convert import convert
from diptych.models.load import load
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig
from diptych.models.verification import CAPTIONS, reference_images

TOLERANCE = 1e-5
TEXT = {
    "vocab_size": WORDS.vocab_size, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 20, "bos_token_id": WORDS.start_id,
    "eos_token_id": WORDS.end_id,
}  # fmt: skip
VISION = {
    "hidden_size": 48, "intermediate_size": 131, "num_hidden_layers": 3, "num_attention_heads": 3,
    "image_size": 36, "patch_size": 12,
}  # fmt: skip


def clip_model(activation: str = "quick_gelu", **changes: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    text = TEXT | {"hidden_act": activation} | changes.pop("text", {})
    vision = VISION | {"hidden_act": activation} | changes.pop("vision", {})
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=40, **changes)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 if "embedding" in name else parameter.shape[-1] ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def processor(folder: Path) -> Any:
    from transformers import CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 36, "width": 36}}
    images = CLIPImageProcessorPil(**sizes, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    return CLIPProcessor(image_processor=images, tokenizer=CLIPTokenizer.from_pretrained(str(folder)))


def saved(folder: Path, model: Any, **options: Any) -> Path:
    folder.mkdir()
    WORDS.save(folder)
    model.save_pretrained(folder, **options)
    processor(folder).save_pretrained(folder)
    return folder


def images(size: tuple[int, int] = (36, 36)) -> list[Image.Image]:
    return [Image.fromarray(image) for image in reference_images(size)]


def compare(ours: Model, model: Any, processor: Any) -> None:
    """Hold pixels, token ids and both embeddings against transformers' own."""
    inputs = processor(
        text=[clean(caption) for caption in CAPTIONS],  # their fast tokenizer leaves entities and mojibake
        images=images(), padding="max_length", truncation=True, max_length=20, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        theirs = model(**inputs)
    pixels, tokens = ours.preprocess_images(images()), ours.tokenize(CAPTIONS)
    assert (pixels - inputs["pixel_values"]).abs().max() < 2e-6
    ends = (tokens == ours.config.text.end_id).int().argmax(1)
    for row, theirs_row, end in zip(tokens, inputs["input_ids"], ends, strict=True):
        assert torch.equal(row[: end + 1], theirs_row[: end + 1])
    for actual, expected in (
        (ours.encode_image(pixels, normalize=True), theirs.image_embeds),
        (ours.encode_text(tokens, normalize=True), theirs.text_embeds),
    ):
        assert (expected[0] - expected[1]).abs().max() > 1e-2, "the tower looks at its input"
        assert (actual - expected).abs().max() < TOLERANCE
    assert torch.equal(ours.clip.logit_scale.detach(), model.logit_scale.detach())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("transformers") / "clip", clip_model())


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "clip"))


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    for dotted, value in changes.items():
        table = document
        *above, last = dotted.split("__")
        for part in above:
            table = table[part]
        table[last] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(("activation", "shards"), [("quick_gelu", False), ("gelu", True)])
def test_what_save_pretrained_wrote_is_the_same_model(activation: str, shards: bool, tmp_path: Path) -> None:
    model = clip_model(activation, text={"layer_norm_eps": 1e-6}, vision={"layer_norm_eps": 1e-6})
    options = {"max_shard_size": "100KB"} if shards else {}
    folder = saved(tmp_path / "clip", model, **options)
    assert (folder / "model.safetensors.index.json").is_file() == shards
    ours = load(folder)
    assert ours.config.activation == activation
    compare(ours, model, processor(folder))
    names = [entry["name"] for entry in ours.provenance["files"]]
    assert names[0] == "config.json" and len(names) == len(set(names)) == len(ours.provenance["files"])
    assert sum(name.endswith(".safetensors") for name in names) == (1 if not shards else len(names) - 4)


def test_a_scale_beyond_the_papers_bound_gives_the_probabilities_of_transformers(tmp_path: Path) -> None:
    model = clip_model()
    model.logit_scale.data.fill_(np.log(250.0))
    ours = load(saved(tmp_path / "clip", model))
    pixels, tokens = ours.preprocess_images(images()), ours.tokenize(CAPTIONS)
    with torch.no_grad():
        expected = model(input_ids=tokens, pixel_values=pixels).logits_per_image
    assert (ours.logits(images(), list(CAPTIONS)) - expected).abs().max() < 1e-3
    checkpoint.save(tmp_path / "ours", ours)
    assert checkpoint.load(tmp_path / "ours").scale == pytest.approx(250.0, rel=1e-5)


def test_the_files_of_older_releases_are_read(copied: Path) -> None:
    model = clip_model()
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    state["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(10)[None]
    state["logit_scale"] = state["logit_scale"].reshape(1)
    torch.save(state, copied / "pytorch_model.bin")
    edit(copied / "config.json", text_config__eos_token_id=2, text_config__bos_token_id=0)
    flat = {
        "crop_size": 36, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4], "resample": 3, "size": 36,
    }  # fmt: skip
    whole = processor(copied)
    (copied / "processor_config.json").unlink()
    (copied / "preprocessor_config.json").write_text(json.dumps(flat))
    (copied / "tokenizer.json").unlink()
    compare(load(copied), model, whole)
    # A *_config_dict replaces the table of the same name with all its defaults.
    text = json.loads((copied / "config.json").read_text())["text_config"]
    edit(copied / "config.json", text_config_dict=text, text_config={"hidden_size": 3})
    compare(load(copied), model, whole)


def test_squashed_images_are_squashed(copied: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sizes = {"size": {"height": 36, "width": 36}, "do_center_crop": False, "resample": 2}
    processor = CLIPImageProcessorPil(**sizes)
    edit(copied / "processor_config.json", image_processor=json.loads(processor.to_json_string()))
    ours = load(copied)
    assert (ours.preprocess.resize, ours.preprocess.interpolation) == ("squash", "bilinear")
    expected = processor(images(), return_tensors="pt")["pixel_values"]
    assert (ours.preprocess_images(images()) - expected).abs().max() < 2e-6


def test_transformers_cuts_some_odd_margins_one_pixel_earlier_than_openai_did(copied: Path) -> None:
    """torchvision, and so OpenAI and open_clip, round half a pixel to even; transformers rounds it down."""
    rows = np.arange(39 * 36 * 3).reshape(39, 36, 3).astype(np.uint8)  # 3 rows too many: 1.5 to cut above
    whole, ours = processor(copied), load(copied)
    theirs = whole(images=[Image.fromarray(rows)], return_tensors="pt")["pixel_values"]
    shifted = whole(images=[Image.fromarray(rows[1:])], return_tensors="pt")["pixel_values"]
    actual = ours.preprocess_images([Image.fromarray(rows)])
    assert (actual - theirs).abs().max() > 0.1
    assert (actual[:, :, :-1] - theirs[:, :, 1:]).abs().max() < 2e-6
    assert (actual - shifted).abs().max() < 2e-6


def test_without_a_processor_the_preprocessing_must_be_passed(copied: Path) -> None:
    (copied / "processor_config.json").unlink()
    with pytest.raises(UsageError, match="preprocess="):
        load(copied)
    assert load(copied, preprocess="clip").preprocess == Preprocess(size=(36, 36))


def from_scratch(vision: VitConfig | ResNetConfig, activation: Any = "quick_gelu", **changes: Any) -> Model:
    text = TextConfig(20, WORDS.vocab_size, 64, 2, 4, WORDS.start_id, WORDS.end_id)
    config = ClipConfig(40, vision, text, activation=activation, **changes)
    clip = build(config, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    transform = Preprocess(vision.image_size, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    return Model(clip, WORDS, transform, {"recipe": "test"})


VIT = VitConfig((36, 36), 12, 48, 3, 3, 131 / 48)


@pytest.mark.parametrize(("activation", "eps"), [("quick_gelu", 1e-5), ("gelu", 1e-6)])
def test_what_we_write_is_what_from_pretrained_reads(activation: str, eps: float, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoProcessor, CLIPModel

    ours = from_scratch(VIT, activation, layer_norm_eps=eps)
    report = convert(ours, tmp_path / "out", "transformers")
    model, actual = CLIPModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(actual.values()), "every tensor has its place"
    assert isinstance(AutoModel.from_pretrained(tmp_path / "out"), CLIPModel)
    compare(ours, model.eval(), AutoProcessor.from_pretrained(tmp_path / "out"))
    assert report == json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["token_ids_equal"] and report["pixels_equal"]
    assert report["image_embeds"]["max_difference"] == report["text_embeds"]["max_difference"] == 0
    assert report["text_embeds"]["min_cosine"] > 0.999999


def test_a_transformers_model_comes_back_bit_for_bit_through_every_format(
    written: Path, tmp_path: Path
) -> None:
    first = last = load(written)
    for step, to in enumerate(("open_clip", "diptych", "transformers")):
        convert(last, tmp_path / f"{step}", to)
        last = load(tmp_path / f"{step}")
    state = first.clip.state_dict()
    for name, tensor in last.clip.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert last.config == first.config and last.preprocess == first.preprocess
    theirs, again = (load_file(folder / "model.safetensors") for folder in (written, tmp_path / "2"))
    assert theirs.keys() == again.keys()
    assert all(torch.equal(theirs[name], again[name]) for name in theirs)


def test_openais_code_takes_only_what_is_fixed_in_it(tmp_path: Path) -> None:
    vision = VitConfig((32, 32), 16, 64, 2, 1)
    model = from_scratch(vision)
    for changed, stated in (
        (model, "architecture"),  # four text heads of 16
        (from_scratch(VIT), "architecture"),
        (from_scratch(vision, "gelu"), "architecture|activation"),
    ):
        with pytest.raises(UsageError, match=stated):
            convert(changed, tmp_path / "out", "openai")
    with pytest.raises(UsageError, match="unknown format"):
        convert(model, tmp_path / "out", "onnx")  # type: ignore[arg-type]


def test_a_conversion_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.core.manifest import read_manifest, verify
    from diptych.models.formats import convert as convert_model

    model = from_scratch(VIT)
    convert(model, tmp_path / "out", "open_clip")
    manifest = verify(tmp_path / "out")
    assert manifest.kind == "conversion" and read_manifest(tmp_path / "out").settings["to"] == "open_clip"
    with pytest.raises(UsageError, match="not empty"):
        convert(model, tmp_path / "out", "open_clip")

    def spoil(actual: Model, *_: object) -> Model:
        with torch.no_grad():
            next(actual.clip.text.parameters()).mul_(1.001)
        return actual

    real = convert_model._read_back
    monkeypatch.setattr(convert_model, "_read_back", lambda *given: spoil(real(*given)))
    with pytest.raises(IntegrityError, match="does not read back"):
        convert(model, tmp_path / "other", "open_clip")
    assert not (tmp_path / "other").exists()
    assert np.isfinite(model.clip.logit_scale.item())
