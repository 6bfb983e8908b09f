"""Every format, damaged or hostile in every way, is refused by file and remedy, and nothing is executed."""

import functools
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.every_format import (
    CONFIG,
    FORMATS,
    INDEX,
    INDEXED,
    OPEN_CLIP_CONFIG,
    PICKLES,
    PROCESSOR,
    SIGLIP_PROCESSOR,
    WITHOUT_CONFIG,
    Made,
)
from tests.models.published import OpenaiClip, Payload, openai_clip, theirs, write_archive
from tests.models.test_checkpoint import forge

from diptych.core.errors import DiptychError
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.load import load

OTHER_WORDS = Tokenizer.train(["quite other words"] * 9, size=530, context_length=20)


@functools.cache
def pristine(name: str) -> tuple[Path, Made]:
    home = Path(tempfile.mkdtemp(prefix="hostile-"))
    return home, FORMATS[name](home)


@pytest.fixture(scope="module", autouse=True)
def cleaned() -> Any:
    yield
    for name in FORMATS:
        shutil.rmtree(pristine(name)[0], ignore_errors=True)
    pristine.cache_clear()


# --- damages: each changes files, and returns what the message must name (one of several, by |) -----


Damage = Callable[[Path, Made], str]


def cut(share: float) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        path = folder / made.weights
        data = path.read_bytes()
        path.write_bytes(data[: min(int(len(data) * share), len(data) - 1)])
        return path.name

    return damage


def flip(folder: Path, made: Made) -> str:
    """Flip a bit of the first tensor's bytes where a checksum covers them, else of the table of tensors."""
    path = folder / made.weights
    data = bytearray(path.read_bytes())
    place = len(data) // 2
    if path.name == "old.bin":
        place = 2
    elif path.suffix == ".safetensors" and made.ref not in ("run", "out"):
        place = data.index(b"dtype")
    data[place] ^= 4
    path.write_bytes(data)
    return path.name


def text_file(folder: Path, made: Made) -> str:
    (folder / made.weights).write_text("<!DOCTYPE html><title>404: not found</title>")
    return Path(made.weights).name


def rewrite(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        path = folder / made.weights
        if path.suffix == ".safetensors":
            state = load_file(path)
            change(state)
            save_file(state, path, {"format": "pt"})
            return f"{path.name}|{INDEX}" if "-of-" in path.name else path.name
        whole = torch.load(path)
        change(whole.get("state_dict", whole))
        torch.save(whole, path, _use_new_zipfile_serialization=path.name != "old.bin")
        return path.name

    return damage


def _renamed(state: dict[str, Any]) -> None:
    state["another.weight"] = state.pop(sorted(state)[-1])


def missing_in_archive(folder: Path, made: Made) -> str:
    model = openai_clip()
    model.ln_final = torch.nn.Identity()  # type: ignore[assignment]
    return _archived(folder, made, model)


def extra_in_archive(folder: Path, made: Made) -> str:
    model = openai_clip()
    model.register_buffer("adapter", torch.zeros(3))
    return _archived(folder, made, model)


def _archived(folder: Path, made: Made, model: OpenaiClip) -> str:
    write_archive(folder / made.weights, model)
    return made.weights


def payload(form: str) -> Damage:
    """Put a call where a tensor should be, beside the tensors, or into a bare pickle of any name."""

    def damage(folder: Path, made: Made) -> str:
        path, evil = folder / made.weights, Payload(folder / "canary")
        if form == "bare":
            path.write_bytes(pickle.dumps(evil, protocol=2))
        elif form == "tensor":
            torch.save({**theirs(), "logit_scale": evil}, path)
        else:
            torch.save({"state_dict": theirs(), "optimizer": evil}, path)
        return path.name

    return damage


def signed(folder: Path) -> None:
    """Give a checkpoint of ours a receipt that fits the changed files: digests must not be all that helps."""
    if (folder / "reference_outputs.safetensors").is_file():
        forge(folder)


def put(name: str, content: bytes) -> Damage:
    """Replace a file's content."""

    def damage(folder: Path, made: Made) -> str:
        (folder / made.ref / name).write_bytes(content)
        signed(folder / made.ref)
        return name

    return damage


def setting(name: str, dotted: str, value: object) -> Damage:
    """Change one setting of a JSON file."""

    def damage(folder: Path, made: Made) -> str:
        path = folder / made.ref / name
        document = json.loads(path.read_text())
        table = document
        *above, last = dotted.split(".")
        for part in above:
            table = table[part]
        table[last] = value
        path.write_text(json.dumps(document))
        signed(folder / made.ref)
        return f"{name}|{Path(made.weights).name}" if dotted.endswith("embed_dim") else name

    return damage


def index(change: Callable[[dict[str, str]], object]) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        path = folder / made.ref / INDEX
        document = json.loads(path.read_text())
        change(document["weight_map"])
        path.write_text(json.dumps(document))
        return path.name

    return damage


def gone(name: str) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        target = folder / (getattr(made, name))
        target.unlink()
        return target.name if made.ref == "run" or "-of-" in target.name else made.ref

    return damage


def other_words(folder: Path, made: Made) -> str:
    OTHER_WORDS.save((folder / made.tokenizer).parent)
    return "tokenizer.json|merges.txt"


def telling(**stated: Any) -> Damage:
    """Pass words to `load` that contradict the files, or (None) leave out what they do not say."""

    def damage(folder: Path, made: Made) -> str:
        for name, value in stated.items():
            made.stated[name] = value
            if value is None:
                del made.stated[name]
        return "|".join([made.ref, *(str(value) for value in stated.values())])

    return damage


HUGE = b"9" * 4000
RUBBISH = {
    "empty": b"", "cut off": b'{"model_cfg": {"embed_dim"', "a list": b"[]", "no text": b"\xff\xfe\x00",
    "nested": b'{"a":' * 100_000, "nested lists": b"[" * 200_000, "endless": b" " * (5 * 2**20),
    "not a number": b'{"model_type": "clip", "projection_dim": NaN}',
    "long number": b'{"image_processor": ' + HUGE + b"0}",
}  # fmt: skip
VALUES: dict[str, list[tuple[str, str, object]]] = {
    "own": [
        (CONFIG, "model.vision.layers", 10**9), (CONFIG, "model.vision.width", "64"),
        (CONFIG, "model.dropout", 0.1), (CONFIG, "preprocess.mean", [9]), (CONFIG, "format", 10**400),
    ],
    "open_clip": [
        (OPEN_CLIP_CONFIG, "model_cfg.vision_cfg.layers", 10**400),
        (OPEN_CLIP_CONFIG, "model_cfg.text_cfg.vocab_size", 2**62),
        (OPEN_CLIP_CONFIG, "model_cfg.text_cfg.context_length", -1),
        (OPEN_CLIP_CONFIG, "model_cfg.embed_dim", "24"), (OPEN_CLIP_CONFIG, "model_cfg.embed_dim", 10**12),
        (OPEN_CLIP_CONFIG, "model_cfg.embed_dim", True), (OPEN_CLIP_CONFIG, "model_cfg.vision_cfg", [1]),
        (OPEN_CLIP_CONFIG, "model_cfg.vision_cfg.patch_size", 0),
        (OPEN_CLIP_CONFIG, "model_cfg.vision_cfg.image_size", 2**40),
        (OPEN_CLIP_CONFIG, "model_cfg.__class__", "os.system"), (OPEN_CLIP_CONFIG, "model_cfg.quick_gelu", 1),
        (OPEN_CLIP_CONFIG, "preprocess_cfg.mean", [1e400] * 3), (OPEN_CLIP_CONFIG, "preprocess_cfg", 7),
        (OPEN_CLIP_CONFIG, "preprocess_cfg.interpolation", "nearest"),
    ],
    "transformers": [
        (CONFIG, "vision_config.num_hidden_layers", 10**400), (CONFIG, "text_config.vocab_size", 2**62),
        (CONFIG, "vision_config.image_size", 2**40), (CONFIG, "vision_config.patch_size", 0),
        (CONFIG, "text_config.max_position_embeddings", -1), (CONFIG, "projection_dim", "40"),
        (CONFIG, "text_config", [1]), (CONFIG, "vision_config.layer_norm_eps", "1e-5"),
        (CONFIG, "vision_config.intermediate_size", 10**30), (CONFIG, "model_type", {"a": 1}),
        (PROCESSOR, "image_processor.image_std", [0, 0, 0]), (PROCESSOR, "image_processor.size", 10**30),
        (PROCESSOR, "image_processor.image_mean", [[1]]), (PROCESSOR, "image_processor.resample", "3"),
    ],
    "siglip": [
        (CONFIG, "vision_config.num_hidden_layers", 10**12), (CONFIG, "text_config.vocab_size", 2**62),
        (CONFIG, "text_config.num_hidden_layers", 10**400), (CONFIG, "vision_config.image_size", [48]),
        (CONFIG, "vision_config.hidden_size", "96"), (CONFIG, "text_config.hidden_act", ["gelu"]),
        (CONFIG, "model_type", "siglip2"), (SIGLIP_PROCESSOR, "image_mean", None),
        (SIGLIP_PROCESSOR, "size", {"height": 48}), (SIGLIP_PROCESSOR, "do_normalize", False),
    ],
}  # fmt: skip
UP = "../secret.safetensors"
SHARDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path upwards": lambda listed: listed.update({"logit_scale": UP}),
    "an absolute path": lambda listed: listed.update({"logit_scale": "/etc/passwd"}),
    "a folder": lambda listed: listed.update({"logit_scale": ".."}),
    "a number": lambda listed: listed.update({"logit_scale": 7}),
    "a null byte": lambda listed: listed.update({"logit_scale": "a\0b"}),
    "a backslash": lambda listed: listed.update({"logit_scale": "..\\secret"}),
    "itself": lambda listed: listed.update({"logit_scale": INDEX}),
    "nothing": lambda listed: listed.clear(),
    "too little": lambda listed: listed.pop("logit_scale"),
}


def cases() -> dict[str, tuple[str, Damage]]:
    """Return every combination that has a meaning: what happens to which format."""
    actual: dict[str, tuple[str, Damage]] = {}
    for name in FORMATS:
        actual |= {
            f"{name}: weights {what}": (name, damage)
            for what, damage in {
                "empty": cut(0), "cut in half": cut(0.5), "cut by a byte": cut(1), "bit flipped": flip,
                "an error page": text_file, "gone": gone("weights"),
            }.items()
        }  # fmt: skip
        if name == "archive":
            tensors = {"missing": missing_in_archive, "extra": extra_in_archive}
        else:
            tensors = {
                "missing": rewrite(lambda state: state.pop(sorted(state)[-1])),
                "extra": rewrite(lambda state: state.update({"adapter.weight": torch.zeros(3)})),
                "renamed": rewrite(_renamed),
                "of another shape": rewrite(
                    lambda state: state.update({sorted(state)[-1]: torch.zeros(2, 2, 2)})
                ),
                "of integers": rewrite(
                    lambda state: state.update({k: v.to(torch.int64) for k, v in state.items()})
                ),
            }
        actual |= {f"{name}: tensor {what}": (name, damage) for what, damage in tensors.items()}
        if name in PICKLES:
            for form in ("bare", "tensor", "beside"):
                actual[f"{name}: payload {form}"] = (name, payload(form))
        else:
            actual[f"{name}: payload under a safe name"] = (name, payload("bare"))
        actual |= _told(name)
        family = next((key for key in VALUES if name.startswith(key)), "")
        files = {
            "own": [CONFIG], "open_clip": [OPEN_CLIP_CONFIG], "transformers": [CONFIG, PROCESSOR],
            "siglip": [CONFIG, SIGLIP_PROCESSOR],
        }  # fmt: skip
        for file in [*files.get(family, ()), *([INDEX] if name in INDEXED else ())]:
            actual |= {f"{name}: {file} {what}": (name, put(file, data)) for what, data in RUBBISH.items()}
        for file, dotted, value in VALUES.get(name, ()):
            actual[f"{name}: {dotted} = {str(value)[:20]}"] = (name, setting(file, dotted, value))
        if name in INDEXED:
            actual |= {f"{name}: index of {what}": (name, index(change)) for what, change in SHARDS.items()}
    return actual


def _told(name: str) -> dict[str, tuple[str, Damage]]:
    """Return the cases in which words contradict the files, or leave out what the files do not say."""
    actual: dict[str, Damage] = {"wrong tokenizer": telling(tokenizer=OTHER_WORDS)}
    if name == "archive":
        actual |= {"wrong activation": telling(activation="gelu")}
        actual |= {"wrong preprocessing": telling(preprocess="siglip")}
    elif name in WITHOUT_CONFIG:
        actual |= {"no configuration": telling(config=None), "no such activation": telling(activation="relu")}
        actual |= {"no preprocessing": telling(preprocess=None), "no words": telling(tokenizer="no/folder")}
    else:
        siglip = name == "siglip"
        actual |= {"wrong activation": telling(activation="quick_gelu" if siglip else "gelu")}
        actual |= {"wrong preprocessing": telling(preprocess="clip" if siglip else "siglip")}
        actual |= {"no preset": telling(preprocess="sigl1p")}
        actual |= {} if siglip else {"other words beside": other_words}
        rubbish = {key: data for key, data in RUBBISH.items() if key not in ("endless", "not a number")}
        words = "spiece.model" if siglip else "tokenizer.json"
        actual |= {f"words {what}": put(words, data) for what, data in rubbish.items()}
    return {f"{name}: {what}": (name, damage) for what, damage in actual.items()}


CASES = cases()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_whole_loads(name: str) -> None:
    home, made = pristine(name)
    assert load(home / made.ref, **made.stated).config.embed_dim in (24, 40, 96)


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_file_and_remedy_and_nothing_runs(case: str, tmp_path: Path) -> None:
    name, damage = CASES[case]
    home, whole = pristine(name)
    folder = Path(shutil.copytree(home, tmp_path / "x"))
    save_file({"logit_scale": torch.zeros(())}, folder / Path(UP).name)
    made = Made(whole.ref, whole.weights, dict(whole.stated), whole.configs, whole.tokenizer)
    named = damage(folder, made)
    with pytest.raises(DiptychError) as error:
        load(folder / made.ref, **made.stated)
    message = str(error.value)
    assert any(name in message for name in named.split("|")) and "to do: " in message, message
    assert len(message) < 3000
    assert not (folder / "canary").exists()


def test_the_payload_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary"), protocol=2))
    assert (tmp_path / "canary").is_dir()
