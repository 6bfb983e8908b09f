"""The peer's half of the tests of files: open_clip writes and reads them with its own code alone.

Usage: python open_clip_files.py write|read FOLDER.

write: reads setup.json (model_cfg, preprocess_cfg), builds the model with random weights and writes it as
`hub/` (save_for_hf), `train/epoch_1.pt` (a training checkpoint with an optimizer and `module.` names),
`plain/` (a folder without tokenizer) and `archive.pt` (TorchScript, half precision where OpenAI's is).
read: loads `model/` with open_clip's own loader, or `model/model.pt` with its loader of OpenAI's files.

Both write out.safetensors: pixels of image_*.png, tokens of captions.json, features of both.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import torchvision_stub  # noqa: F401 — before open_clip
from open_clip import create_model_and_transforms, get_tokenizer, load_openai_model
from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import save_file

HALF = ("conv", "proj", "c_fc", "downsample")


def build(setup: dict) -> torch.nn.Module:
    model_cfg = dict(setup["model_cfg"])
    cls = CustomTextCLIP if model_cfg.pop("custom_text", False) else CLIP
    torch.manual_seed(0)
    model = cls(**model_cfg).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embedding" not in name:
            torch.nn.init.normal_(parameter, std=1.2 * parameter[0].numel() ** -0.5)
        elif name.endswith(("bias", "bn1.weight", "bn2.weight", "bn3.weight")):
            torch.nn.init.uniform_(parameter, 0.1, 0.6)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.5, 2)
    for parameter in model.parameters():  # exact in half precision, so that one model serves every file
        parameter.data = parameter.data.half().float()
    stated = {k: v for k, v in setup["preprocess_cfg"].items() if k != "size"}
    set_model_preprocess_cfg(model, {**stated, "size": model.visual.image_size})
    return model


def write(folder: Path) -> None:
    setup = json.loads((folder / "setup.json").read_text())
    model = build(setup)
    text_cfg = setup["model_cfg"]["text_cfg"]
    tokenizer = HFTokenizer(
        str(folder / "tokenizer"),
        context_length=text_cfg["context_length"],
        **text_cfg.get("tokenizer_kwargs", {}),
    )
    save_for_hf(model, tokenizer, setup["model_cfg"], str(folder / "hub"))
    (folder / "plain").mkdir()
    shutil.copy(folder / "hub" / "open_clip_config.json", folder / "plain")
    shutil.copy(folder / "hub" / "open_clip_pytorch_model.bin", folder / "plain")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    (folder / "train").mkdir()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    saved = {"epoch": 1, "name": "test", "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(saved, folder / "train" / "epoch_1.pt")
    cfg = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), model.visual.preprocess_cfg))
    answer(
        folder,
        model,
        image_transform_v2(cfg, is_train=False),
        tokenizer if "tokenizer_kwargs" in text_cfg else SimpleTokenizer(context_length=model.context_length),
    )
    if setup["archive"]:  # last: the archive shares its parameters with the model
        size = model.visual.image_size
        pixels = torch.zeros(1, 3, *((size, size) if isinstance(size, int) else size))
        traced = torch.jit.trace(
            model, (pixels, torch.zeros(1, model.context_length, dtype=torch.long)), check_trace=False
        )
        for name, parameter in traced.named_parameters():
            if any(part in name for part in HALF):
                parameter.data = parameter.data.half()
        traced.save(str(folder / "archive.pt"))


def read(folder: Path) -> None:
    if (folder / "model" / "model.pt").is_file():
        model = load_openai_model(str(folder / "model" / "model.pt"), precision="fp32", device="cpu")
        cfg = PreprocessCfg(size=model.visual.image_size)
        transform = image_transform_v2(cfg, is_train=False)
        tokenizer = SimpleTokenizer(context_length=model.context_length)
    else:
        name = f"local-dir:{folder / 'model'}"
        forced = folder / "force_image_size"
        size = int(forced.read_text()) if forced.is_file() else None
        model, _, transform = create_model_and_transforms(name, force_image_size=size)
        tokenizer = get_tokenizer(name)
    answer(folder, model.eval(), transform, tokenizer)


def answer(folder: Path, model: torch.nn.Module, transform: object, tokenizer: object) -> None:
    images = [Image.open(path) for path in sorted(folder.glob("image_*.png"))]
    pixels = torch.stack([transform(image) for image in images])
    tokens = tokenizer(json.loads((folder / "captions.json").read_text()))
    bias = getattr(model, "logit_bias", None)
    with torch.no_grad():
        out = {
            "logit_bias": torch.zeros(()) if bias is None else bias.detach(),
            "pixels": pixels,
            "tokens": tokens,
            "image_features": model.encode_image(pixels),
            "text_features": model.encode_text(tokens),
            "logit_scale": model.logit_scale.detach(),
        }
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, folder / "out.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
