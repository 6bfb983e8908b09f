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
    WITHOUT_CONFIG,
    Made,
)
from tests.models.published import Payload, openai_clip, theirs, write_archive
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


def bytes_of(change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        path = folder / made.weights
        path.write_bytes(change(path.read_bytes()))
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


def archived(change: Callable[[Any], object]) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        model = openai_clip()
        change(model)
        write_archive(folder / made.weights, model)
        return made.weights

    return damage


def payload(form: str) -> Damage:
    """Put a call where a tensor should be, beside the tensors, or into a bare pickle of any name."""

    def damage(folder: Path, made: Made) -> str:
        path, evil = folder / made.weights, Payload(folder / "canary")
        if form == "bare":
            path.write_bytes(pickle.dumps(evil, protocol=2))
        else:
            saved = {**theirs(), "logit_scale": evil}
            saved = {"state_dict": theirs(), "optimizer": evil} if form == "beside" else saved
            torch.save(saved, path, _use_new_zipfile_serialization=path.name != "old.bin")
        return path.name if path.suffix == ".safetensors" else "mkdir"

    return damage


def signed(folder: Path) -> None:
    """Give a checkpoint of ours a manifest that fits the changed files: digests must not be all there is."""
    if (folder / "reference_outputs.safetensors").is_file():
        forge(folder)


def put(name: str, content: bytes) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        (folder / made.ref / name).write_bytes(content)
        signed(folder / made.ref)
        return name

    return damage


def setting(name: str, dotted: str, value: object) -> Damage:
    """Change one setting of a JSON file; the message names it, or what is wrong with it."""

    def damage(folder: Path, made: Made) -> str:
        document = json.loads((folder / made.ref / name).read_text())
        table = document
        *above, last = dotted.split(".")
        for part in above:
            table = table[part]
        table[last] = value
        (folder / made.ref / name).write_text(json.dumps(document))
        signed(folder / made.ref)
        return "|".join((last, *CALLED_OTHERWISE.get(last, ())))

    return damage


def index(change: Callable[[dict[str, str]], object]) -> Damage:
    def damage(folder: Path, made: Made) -> str:
        path = folder / made.ref / INDEX
        document = json.loads(path.read_text())
        change(document["weight_map"])
        path.write_text(json.dumps(document))
        return path.name

    return damage


def gone(folder: Path, made: Made) -> str:
    target = folder / made.weights
    target.unlink()
    return target.name if made.ref == "run" or "-of-" in target.name else made.ref


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
# By format, file and the table in it: values that no such setting has, or none that our towers have.
VALUES: dict[tuple[str, str, str], dict[str, list[object]]] = {
    ("own", CONFIG, ""): {
        "model.vision.layers": [10**9], "model.vision.width": ["64"], "model.dropout": [0.1],
        "preprocess.mean": [[9]], "format": [10**400],
    },
    ("open_clip", OPEN_CLIP_CONFIG, ""): {"preprocess_cfg": [7]},
    ("open_clip", OPEN_CLIP_CONFIG, "model_cfg."): {
        "embed_dim": ["24", 10**12, True], "quick_gelu": ["yes", 1], "multimodal_cfg": [{"layers": 2}],
        "__class__": ["os.system"], "vision_cfg": [[1]],
    },
    ("open_clip", OPEN_CLIP_CONFIG, "model_cfg.vision_cfg."): {
        "no_ln_pre": [True], "ls_init_value": [0.1], "qk_norm": [True], "pool_type": ["avg"],
        "timm_model_name": ["convnext_base"], "layers": [10**9, 10**400, -1], "width": [10**30],
        "head_width": [0], "mlp_ratio": [1e300], "patch_size": [0], "norm_kwargs": [{"eps": 1e-6}],
        "image_size": [[32, 32, 32], {"a": 1}, 2**40], "act_kwargs": [{"inplace": True}],
    },
    ("open_clip", OPEN_CLIP_CONFIG, "model_cfg.text_cfg."): {
        "hf_model_name": ["roberta-base"], "tokenizer_mode": ["clips"], "no_causal_mask": [True],
        "pool_type": ["last"], "eos_id": ["__import__('os')"], "__class__": ["os.system"],
        "vocab_size": [2**62], "context_length": [-1],
    },
    ("open_clip", OPEN_CLIP_CONFIG, "preprocess_cfg."): {
        "resize_mode": ["longest"], "mean": [[0.5], [1e400] * 3], "std": [[0.5, 0.5, 0.0]], "mode": ["L"],
        "interpolation": ["nearest"], "crop_pct": [0.9],
    },
    ("transformers", CONFIG, ""): {
        "model_type": ["bert", ["clip"], {"a": 1}], "projection_dim": [True, "40"],
        "vision_config": [None], "text_config": [[1]],
    },
    ("transformers", CONFIG, "text_config."): {
        "hidden_act": ["relu", "gelu"], "num_hidden_layers": [1e3], "eos_token_id": [10**6, [1, 2]],
        "vocab_size": [2**62], "max_position_embeddings": [-1],
    },
    ("transformers", CONFIG, "vision_config."): {
        "layer_norm_eps": [1e-3, "1e-5"], "num_channels": [4], "hidden_size": ["48", 0],
        "num_hidden_layers": [10**9, 10**400], "image_size": [2**40], "patch_size": [0],
        "intermediate_size": [10**30],
    },
    ("transformers", PROCESSOR, ""): {"image_processor": [[]]},
    ("transformers", PROCESSOR, "image_processor."): {
        "size": [{"shortest_edge": 40}, {"longest_edge": 36}, 10**30], "do_center_crop": [False],
        "image_mean": ["0.5", [[1]]], "image_std": [[0, 0, 0]], "resample": ["3"], "do_pad": [True],
    },
}  # fmt: skip
CALLED_OTHERWISE = {
    "hidden_size": ("heads",), "num_hidden_layers": ("layers",), "eos_token_id": ("end_id",),
    "max_position_embeddings": ("context_length",), "intermediate_size": ("mlp_ratio",),
    "do_center_crop": ("size",), "image_std": ("std",), "embed_dim": ("open_clip_model.safetensors",),
    "mean": ("not a finite number",),
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
WEIGHTS: dict[str, Damage] = {
    "empty": bytes_of(lambda data: b""),
    "cut in half": bytes_of(lambda data: data[: len(data) // 2]),
    "cut by a byte": bytes_of(lambda data: data[:-1]),
    "an error page": bytes_of(lambda data: b"<!DOCTYPE html><title>404: not found</title>"),
    "bit flipped": flip,
    "gone": gone,
}
TENSORS: dict[str, Damage] = {
    "missing": rewrite(lambda state: state.pop(sorted(state)[-1])),
    "extra": rewrite(lambda state: state.update({"adapter.weight": torch.zeros(3)})),
    "renamed": rewrite(lambda state: state.update({"another.weight": state.pop(sorted(state)[-1])})),
    "of another shape": rewrite(lambda state: state.update({sorted(state)[-1]: torch.zeros(2, 2, 2)})),
    "of integers": rewrite(lambda state: state.update({k: v.to(torch.int64) for k, v in state.items()})),
}
ARCHIVED: dict[str, Damage] = {
    "missing": archived(lambda model: setattr(model, "ln_final", torch.nn.Identity())),
    "extra": archived(lambda model: model.register_buffer("adapter", torch.zeros(3))),
}
FILES = {
    "own": [CONFIG], "open_clip": [OPEN_CLIP_CONFIG], "transformers": [CONFIG, PROCESSOR],
}  # fmt: skip


def damages(name: str) -> dict[str, Damage]:
    """Return every damage that has a meaning for a format."""
    found = {f"weights {what}": damage for what, damage in WEIGHTS.items()}
    tensors = ARCHIVED if name == "archive" else TENSORS
    found |= {f"tensor {what}": damage for what, damage in tensors.items()}
    forms = ("bare", "tensor", "beside") if name in PICKLES else ("bare",)
    found |= {f"payload {form}": payload(form) for form in forms}
    found |= contradictions(name)
    files = next((files for kind, files in FILES.items() if name.startswith(kind)), [])
    for file in [*files, *([INDEX] if name in INDEXED else ())]:
        found |= {f"{file} {what}": put(file, data) for what, data in RUBBISH.items()}
    for (kind, file, table), rows in VALUES.items():
        for key, value in [(table + key, value) for key, values in rows.items() for value in values]:
            found |= {f"{file}: {key} = {str(value)[:20]}": setting(file, key, value)} if kind == name else {}
    if name in INDEXED:
        found |= {f"index of {what}": index(change) for what, change in SHARDS.items()}
    return found


def contradictions(name: str) -> dict[str, Damage]:
    """Return the cases in which words contradict the files, or leave out what the files do not say."""
    found: dict[str, Damage] = {"wrong tokenizer": telling(tokenizer=OTHER_WORDS)}
    if name not in WITHOUT_CONFIG or name == "archive":
        found["wrong activation"] = telling(activation="gelu")
        found["wrong preprocessing"] = telling(preprocess="siglip")
    if name == "archive":
        return found
    if name in WITHOUT_CONFIG:
        found |= {"no configuration": telling(config=None), "no such activation": telling(activation="relu")}
        return found | {
            "no preprocessing": telling(preprocess=None),
            "no words": telling(tokenizer="no/folder"),
        }
    found |= {"no preset": telling(preprocess="sigl1p"), "other words beside": other_words}
    rubbish = {key: data for key, data in RUBBISH.items() if key not in ("endless", "not a number")}
    return found | {f"words {what}": put("tokenizer.json", data) for what, data in rubbish.items()}


CASES = {f"{name}: {what}": (name, damage) for name in FORMATS for what, damage in damages(name).items()}


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
