"""Any reference becomes the model that its files describe, or an error that names the file and the remedy."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.published import (
    ALONE,
    GELU,
    WORDS,
    agrees,
    cached,
    open_clip_folder,
    openai_clip,
    theirs,
    write_archive,
)

from diptych.core.errors import (
    DataError,
    DiptychError,
    IntegrityError,
    UsageError,
)
from diptych.data import vocabulary
from diptych.data.images import Preprocess
from diptych.data.tokenizer import Tokenizer
from diptych.models import checkpoint
from diptych.models.hub import Hub
from diptych.models.layout_openai import from_openai_state
from diptych.models.load import load

SIZE = {"size": (32, 32)}


# --- weights alone --------------------------------------------------------------------------------


def test_an_openai_archive_says_its_activation_and_needs_only_a_vocabulary(tmp_path: Path) -> None:
    write_archive(tmp_path / "quick.pt", openai_clip())
    write_archive(tmp_path / "gelu.pt", openai_clip(GELU()))
    quick = load(tmp_path / "quick.pt", tokenizer=WORDS)
    with pytest.raises(UsageError, match="preprocess="):  # not OpenAI's: only they had QuickGELU in archives
        load(tmp_path / "gelu.pt", tokenizer=WORDS)
    gelu = load(tmp_path / "gelu.pt", **ALONE)
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
    for left_out, told in (
        ("activation", "activation="),
        ("preprocess", "preprocess="),
        ("tokenizer", "tokenizer="),
    ):
        given = {"activation": "quick_gelu", **ALONE}
        del given[left_out]
        with pytest.raises(UsageError) as error:
            load(path, **given, hub=Hub(cache_dir=tmp_path / "no-cache"))
        assert told in str(error.value) and path.name in str(error.value)


def test_a_training_checkpoint_is_stripped_of_its_wrappers(tmp_path: Path) -> None:
    state = {f"module._orig_mod.{name}": tensor for name, tensor in theirs().items()}
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "epoch_1.pt")
    agrees(load(tmp_path / "epoch_1.pt", activation="quick_gelu", **ALONE))


def test_custom_text_names_and_half_precision_are_read(tmp_path: Path) -> None:
    state = theirs()
    named = {
        name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": tensor.half()
        for name, tensor in state.items()
    }
    save_file(named, tmp_path / "custom.safetensors")
    found = load(tmp_path / "custom.safetensors", activation="quick_gelu", **ALONE)
    agrees(found)
    assert {parameter.dtype for parameter in found.clip.parameters()} == {torch.float32}


def test_heads_are_those_of_the_published_widths() -> None:
    state = theirs()
    for width, heads in ((1280, 16), (1408, 16), (1664, 16), (1024, 16), (768, 12), (896, 14)):
        wide = dict(state)
        wide["visual.conv1.weight"] = torch.empty(width, 3, 16, 16, device="meta")
        wide["visual.transformer.resblocks.0.mlp.c_fc.weight"] = torch.empty(4 * width, width, device="meta")
        found, _ = from_openai_state(wide, activation="gelu")
        assert found.vision.heads == heads


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "kind"])
def test_a_tensor_too_few_or_too_many_is_named_as_in_the_file(change: str, tmp_path: Path) -> None:
    state, name = theirs(), "visual.transformer.resblocks.1.mlp.c_proj.bias"
    if change == "missing":
        del state[name]
    elif change == "extra":
        name = "adapter"
        state[name] = torch.zeros(())
    elif change == "shape":
        state[name] = torch.zeros(65)
    else:
        state[name] = torch.zeros(64, dtype=torch.int64)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(IntegrityError) as error:
        load(tmp_path / "weights.safetensors", activation="quick_gelu", **ALONE)
    wanted = "vision.blocks.1.mlp.c_proj.bias" if change == "kind" else name
    assert wanted in str(error.value)
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
        load(tmp_path / "other.safetensors", activation="gelu", **ALONE)
    save_file({"text_model.x": torch.zeros(2, 2)}, tmp_path / "hf.safetensors")
    with pytest.raises(UsageError, match=r"hf\.safetensors(.|\n)*config\.json"):
        load(tmp_path / "hf.safetensors", activation="gelu", **ALONE)


# --- an open_clip folder --------------------------------------------------------------------------


def test_an_open_clip_folder_says_everything(tmp_path: Path) -> None:
    found = load(open_clip_folder(tmp_path / "model"))
    agrees(found)
    assert found.preprocess == Preprocess(**SIZE)
    assert [entry["name"] for entry in found.provenance["files"]] == [
        "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    agrees(load(tmp_path / "model" / "open_clip_model.safetensors"))
    with pytest.raises(UsageError, match="another activation"):
        load(tmp_path / "model", activation="gelu")
    with pytest.raises(UsageError, match="another preprocessing"):
        load(tmp_path / "model", preprocess="siglip")
    agrees(load(tmp_path / "model", activation="quick_gelu", preprocess="clip"))


@pytest.mark.parametrize(
    ("part", "key", "value", "told"),
    [
        ("model_cfg", "quick_gelu", "yes", "quick_gelu"),
        ("model_cfg", "multimodal_cfg", {"layers": 2}, "multimodal_cfg"),
        ("vision_cfg", "no_ln_pre", True, "no_ln_pre"),
        ("vision_cfg", "ls_init_value", 0.1, "ls_init_value"),
        ("vision_cfg", "pool_type", "avg", "pool_type"),
        ("vision_cfg", "timm_model_name", "convnext_base", "timm_model_name"),
        ("vision_cfg", "qk_norm", True, "qk_norm"),
        ("vision_cfg", "layers", 10**9, "layers"),
        ("vision_cfg", "layers", -1, "layers"),
        ("vision_cfg", "width", 10**30, "width"),
        ("vision_cfg", "head_width", 0, "head_width"),
        ("vision_cfg", "mlp_ratio", 1e300, "mlp_ratio"),
        ("vision_cfg", "image_size", [32, 32, 32], "image_size"),
        ("vision_cfg", "image_size", {"a": 1}, "image_size"),
        ("vision_cfg", "norm_kwargs", {"eps": 1e-6}, "norm_kwargs"),
        ("vision_cfg", "act_kwargs", {"inplace": True}, "act_kwargs"),
        ("text_cfg", "hf_model_name", "roberta-base", "hf_model_name"),
        ("text_cfg", "tokenizer_mode", "clips", "tokenizer_mode"),
        ("text_cfg", "no_causal_mask", True, "no_causal_mask"),
        ("text_cfg", "pool_type", "last", "pool_type"),
        ("text_cfg", "eos_id", "__import__('os')", "eos_id"),
        ("text_cfg", "__class__", "os.system", "__class__"),
        ("preprocess_cfg", "resize_mode", "longest", "resize_mode"),
        ("preprocess_cfg", "mean", [0.5], "mean"),
        ("preprocess_cfg", "std", [0.5, 0.5, 0.0], "std"),
        ("preprocess_cfg", "mode", "L", "mode"),
    ],
)
def test_an_open_clip_config_that_asks_for_something_else_is_refused(
    part: str, key: str, value: object, told: str, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        (document.get(part) or document["model_cfg"][part])[key] = value

    folder = open_clip_folder(tmp_path / "model", change)
    with pytest.raises(DiptychError) as error:
        load(folder)
    assert "open_clip_config.json" in str(error.value) and told in str(error.value)
    assert "to do: " in str(error.value)


def test_what_matters_only_in_training_is_no_reason_to_refuse(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["model_cfg"]["vision_cfg"] |= {
            "patch_dropout": 0.5,
            "ls_init_value": None,
            "pool_type": "tok",
        }
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
    given: dict[str, Any] = {"activation": "quick_gelu", "preprocess": "clip"}
    found = load(tmp_path / "weights.safetensors", **given, hub=Hub(cache_dir=tmp_path / "cache"))
    assert found.tokenizer.encode("a!") == words.encode("a!")


# --- our own --------------------------------------------------------------------------------------


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
        (exact.embed_image(pixels), short.embed_image(pixels)),
        (exact.embed_text(tokens), short.embed_text(tokens)),
    ):
        assert torch.nn.functional.cosine_similarity(one, other).min() > 0.999


def test_an_unknown_preprocessing_is_told_with_the_nearest(tmp_path: Path) -> None:
    save_file(theirs(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="siglip"):
        load(tmp_path / "w.safetensors", activation="gelu", tokenizer=WORDS, preprocess="sigl1p")


def test_the_weights_of_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    found = load(open_clip_folder(tmp_path / "model"))
    assert all(parameter.requires_grad for parameter in found.clip.parameters())
    before = load_file(tmp_path / "model" / "open_clip_model.safetensors")
    with torch.no_grad():
        for parameter in found.clip.parameters():
            parameter.add_(1)
    after = load_file(tmp_path / "model" / "open_clip_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before), "the file is left alone"
    shutil.rmtree(tmp_path / "model")
