"""Any reference becomes the model that its files describe, or an error that names the file and the remedy."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.published import (
    ALONE,
    ALONE_GELU,
    GELU,
    OPEN_CLIP,
    WORDS,
    agrees,
    cached,
    open_clip_folder,
    openai_clip,
    theirs,
    with_rows,
    write_archive,
)

from diptych.core.errors import DataError, IntegrityError, UsageError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers import vocabulary
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models import checkpoint
from diptych.models.formats.hub import Hub
from diptych.models.formats.openai import infer_openai, to_openai_state
from diptych.models.load import load
from diptych.models.towers.clip import meta_init
from diptych.models.towers.config import ClipConfig, ResNetConfig, TextConfig, VitConfig
from diptych.models.towers.presets import preset
from diptych.models.verification import CAPTIONS

SIZE = {"size": (32, 32)}


def test_an_openai_archive_says_its_activation_and_needs_only_a_vocabulary(tmp_path: Path) -> None:
    write_archive(tmp_path / "quick.pt", openai_clip())
    write_archive(tmp_path / "gelu.pt", openai_clip(GELU()))
    quick = load(tmp_path / "quick.pt", tokenizer=WORDS)
    with pytest.raises(UsageError, match="config="):  # none of OpenAI's, which all have QuickGELU
        load(tmp_path / "gelu.pt", tokenizer=WORDS)
    gelu = load(tmp_path / "gelu.pt", **ALONE_GELU)
    agrees(quick)
    agrees(gelu, GELU())
    assert (quick.config.activation, gelu.config.activation) == ("quick_gelu", "gelu")
    assert quick.preprocess == Preprocess(**SIZE)
    assert quick.provenance["format"] == "openai"
    (entry,) = quick.provenance["files"]
    assert entry["sha256"] == hashlib.sha256((tmp_path / "quick.pt").read_bytes()).hexdigest()
    with pytest.raises(UsageError, match="another activation"):
        load(tmp_path / "gelu.pt", tokenizer=WORDS, activation="quick_gelu")


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_a_state_dictionary_needs_to_be_told_what_it_does_not_say(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    state = theirs()
    state["logit_scale"] = state["logit_scale"].reshape(1)
    state["transformer.resblocks.0.attn_mask"] = torch.zeros(20, 20)
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    agrees(load(path, activation="quick_gelu", **ALONE))
    with pytest.raises(UsageError, match="activation="):
        load(path, tokenizer=WORDS, preprocess="clip")
    for left_out in ("config", "preprocess", "tokenizer"):
        given = {"activation": "quick_gelu", **ALONE}
        del given[left_out]
        with pytest.raises(UsageError) as error:
            load(path, **given, hub=Hub(cache_dir=tmp_path / "no-cache"))
        assert f"{left_out}=" in str(error.value) and path.name in str(error.value)


def test_custom_text_names_and_half_precision_are_read(tmp_path: Path) -> None:
    state = theirs()
    named = {
        name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": tensor.half()
        for name, tensor in state.items()
    }
    save_file(named, tmp_path / "custom.safetensors")
    actual = load(tmp_path / "custom.safetensors", activation="quick_gelu", **ALONE)
    agrees(actual)
    assert {parameter.dtype for parameter in actual.clip.parameters()} == {torch.float32}


PUBLISHED_SHAPES = {
    # heads of the image tower, heads of the text tower: the papers and open_clip's model_configs
    "ViT-B-32": (12, 8), "ViT-B-16": (12, 8), "ViT-L-14": (16, 12), "ViT-L-14-336": (16, 12), "RN50": (32, 8),
    "RN101": (32, 8), "RN50x4": (40, 10), "RN50x16": (48, 12), "RN50x64": (64, 16), "ViT-H-14": (16, 16),
    "ViT-g-14": (16, 16), "ViT-bigG-14": (16, 20), "ViT-B-16-plus-240": (14, 10),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_SHAPES)
def test_heads_are_those_of_the_published_shapes(name: str) -> None:
    state = to_openai_state(meta_init(preset(name)).state_dict())
    actual = infer_openai(state, activation="gelu")
    assert (actual.vision.heads, actual.text.heads) == PUBLISHED_SHAPES[name]


TINY = VitConfig((224, 224), 16, 192, 12, 6)  # timm's ViT-Ti has 3 heads, and this one has 6


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        (TINY, TextConfig()),
        (replace(TINY, width=768, heads=12, image_size=(320, 320)), TextConfig()),  # 20x20, or 16x25 patches?
        (replace(TINY, width=768, heads=12, layers=13), TextConfig()),
        (replace(TINY, width=768, heads=12, mlp_ratio=3.0), TextConfig()),
        (replace(TINY, width=768, heads=12), TextConfig(width=384, heads=6)),
        (ResNetConfig((224, 224), (3, 4, 6, 4), 64, 32), TextConfig()),
    ],
)
def test_the_heads_of_other_shapes_are_asked_for(vision: Any, text: TextConfig) -> None:
    state = to_openai_state(meta_init(ClipConfig(512, vision, text)).state_dict())
    with pytest.raises(UsageError, match="number of heads") as error:
        infer_openai(state, activation="gelu")
    assert "config=" in error.value.fix


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_configuration_says_the_heads_of_weights_that_lie_alone(heads: int, tmp_path: Path) -> None:
    """The same weights are another model with other numbers of heads, and none is taken for another."""
    state = theirs()
    save_file(state, tmp_path / "weights.safetensors")
    cfg = json.loads(json.dumps(OPEN_CLIP["model_cfg"]))
    cfg["vision_cfg"]["head_width"], cfg["text_cfg"]["heads"] = 64 // heads, heads
    (tmp_path / "tiny.json").write_text(json.dumps(cfg))  # as open_clip's model_configs lie
    (tmp_path / "hub.json").write_text(json.dumps(OPEN_CLIP | {"model_cfg": cfg}))
    given = {"tokenizer": WORDS, "preprocess": "clip"}
    alone = load(tmp_path / "weights.safetensors", config=tmp_path / "tiny.json", **given)
    whole = load(tmp_path / "weights.safetensors", config=tmp_path / "hub.json", tokenizer=WORDS)
    assert alone.config.vision.heads == alone.config.text.heads == heads
    assert alone.digest == whole.digest
    model = openai_clip()
    for block in (*model.visual.transformer.resblocks, *model.transformer.resblocks):
        block.attn.num_heads, block.attn.head_dim = heads, 64 // heads
    tokens = alone.tokenize(CAPTIONS)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images, texts, _ = model(pixels, tokens)
    assert (alone.encode_image(pixels, normalize=True) - images).abs().max() < 1e-5
    assert (alone.encode_text(tokens, normalize=True) - texts).abs().max() < 1e-5


def test_a_configuration_is_for_weights_that_lie_alone(tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "model")
    with pytest.raises(UsageError, match="lies beside"):
        load(folder, config=OPEN_CLIP)
    checkpoint.save(tmp_path / "ours", load(folder))
    with pytest.raises(UsageError, match="config="):
        load(tmp_path / "ours", config=OPEN_CLIP)


BIAS = "visual.transformer.resblocks.1.mlp.c_proj.bias"


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (lambda state: state.pop(BIAS), f"no {BIAS} [64]"),
        (lambda state: state.update(adapter=torch.zeros(())), "an unknown adapter []"),
        (lambda state: state.update({BIAS: torch.zeros(65)}), f"{BIAS} [65] instead of [64]"),
        (
            lambda state: state.update({BIAS: torch.zeros(64, dtype=torch.int64)}),
            f"{BIAS} [64] of torch.int64",
        ),
    ],
)
def test_a_tensor_too_few_or_too_many_is_named_as_in_the_file(
    change: Callable[[Any], object], stated: str, tmp_path: Path
) -> None:
    state = theirs()
    change(state)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(IntegrityError) as error:
        load(tmp_path / "weights.safetensors", activation="quick_gelu", **ALONE)
    assert stated in str(error.value)
    assert "weights.safetensors" in str(error.value) and "to do: " in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_scale", float("nan")),
        ("logit_scale", 100.0),  # its exponential is infinite in float32
        ("visual.proj", float("inf")),
        ("transformer.resblocks.1.mlp.c_fc.bias", float("nan")),
    ],
)
def test_weights_that_are_no_numbers_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    state = theirs()
    state[name].view(-1)[-1] = value
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(IntegrityError, match=r"weights\.safetensors(.|\n)*to do") as error:
        load(tmp_path / "weights.safetensors", activation="quick_gelu", **ALONE)
    assert name.removeprefix("transformer.resblocks").removeprefix("visual") in str(error.value)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"token_embedding(.|\n)*other\.safetensors|other\.safetensors"):
        load(tmp_path / "other.safetensors", activation="gelu")
    save_file({"text_model.x": torch.zeros(2, 2)}, tmp_path / "hf.safetensors")
    with pytest.raises(UsageError, match=r"hf\.safetensors(.|\n)*config\.json"):
        load(tmp_path / "hf.safetensors", activation="gelu")


def test_an_open_clip_folder_says_everything(tmp_path: Path) -> None:
    actual = load(open_clip_folder(tmp_path / "model"))
    agrees(actual)
    assert actual.preprocess == Preprocess(**SIZE)
    assert [entry["name"] for entry in actual.provenance["files"]] == [
        "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    agrees(load(tmp_path / "model" / "open_clip_model.safetensors"))
    with pytest.raises(UsageError, match="another activation"):
        load(tmp_path / "model", activation="gelu")
    with pytest.raises(UsageError, match="another preprocessing"):
        load(tmp_path / "model", preprocess="siglip")
    agrees(load(tmp_path / "model", activation="quick_gelu", preprocess="clip"))


def test_what_matters_only_in_training_is_no_reason_to_refuse(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        vision = document["model_cfg"]["vision_cfg"]
        vision |= {"patch_dropout": 0.5, "ls_init_value": None, "pool_type": "tok"}
        document["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "x/y", "output_tokens": True}
        document["preprocess_cfg"] |= {"interpolation": "random", "size": 32, "fill_color": 0}

    agrees(load(open_clip_folder(tmp_path / "model", change)))


def test_openais_vocabulary_comes_from_the_cache_where_none_lies_beside(tmp_path: Path) -> None:
    symbols = vocabulary.from_merges(()).ids
    pairs = [(a, b) for a in list(symbols)[:256] for b in list(symbols)[:256]][:48_894]
    words = Tokenizer(vocabulary.from_merges(pairs), context_length=20)
    assert words.vocab_size == 49_408
    files = cached(tmp_path / "cache", "openai/clip-vit-base-patch32", {})
    words.save(files)
    state = theirs()
    state["token_embedding.weight"] = torch.zeros(49_408, 64)
    save_file(state, tmp_path / "weights.safetensors")
    given: dict[str, Any] = {"config": with_rows(49_408), "preprocess": "clip"}
    actual = load(tmp_path / "weights.safetensors", **given, hub=Hub(cache_dir=tmp_path / "cache"))
    assert actual.tokenizer.encode("a!") == words.encode("a!")


def test_our_own_checkpoints_and_runs_go_the_old_way(tmp_path: Path) -> None:
    model = load(open_clip_folder(tmp_path / "model"))
    checkpoint.save(tmp_path / "run" / "model", model)
    for ref in (tmp_path / "run" / "model", tmp_path / "run", str(tmp_path / "run")):
        assert load(ref).digest == model.digest
    with pytest.raises(UsageError, match="another activation"):
        load(tmp_path / "run", activation="gelu")
    with pytest.raises(UsageError, match="its own tokenizer"):
        load(tmp_path / "run", tokenizer=WORDS)
    with pytest.raises(UsageError, match="load the folder"):
        load(tmp_path / "run" / "model" / "model.safetensors")
    (tmp_path / "run" / "model" / "manifest.json").unlink()
    with pytest.raises(UsageError, match="checkpoint"):
        load(tmp_path / "run" / "model")


def test_bfloat16_weights_embed_nearly_the_same(tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "model")
    exact, short = load(folder), load(folder, precision="bfloat16")
    pixels, tokens = torch.randn(2, 3, 32, 32), exact.tokenize(["a red dog", ""])
    assert short.dtype == torch.bfloat16
    for one, other in (
        (exact.encode_image(pixels, normalize=True), short.encode_image(pixels, normalize=True)),
        (exact.encode_text(tokens, normalize=True), short.encode_text(tokens, normalize=True)),
    ):
        assert torch.nn.functional.cosine_similarity(one, other).min() > 0.999


def test_the_weights_of_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    actual = load(open_clip_folder(tmp_path / "model"))
    assert all(parameter.requires_grad for parameter in actual.clip.parameters())
    before = load_file(tmp_path / "model" / "open_clip_model.safetensors")
    with torch.no_grad():
        for parameter in actual.clip.parameters():
            parameter.add_(1)
    after = load_file(tmp_path / "model" / "open_clip_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before), "the file is left alone"
