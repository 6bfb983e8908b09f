"""One small model with random weights per family, written by a library, and what each library says of it.

`write` puts a checkpoint into a folder with the peer's own code; `ask` loads a folder with the peer's own
loader and returns its pixels, token ids and unit embeddings for four images and eight captions.
transformers runs in this process; open_clip, which also writes and reads OpenAI's layout, in a Python of its
own (`DIPTYCH_PEERS_PYTHON`). timm builds no SigLIP tower smaller than a ViT-B, so with that Python those are
used.
"""

import html
import io
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from tests.peers import open_clip_merges, peers_python, run_peer
from torch import Tensor
from torch.nn import functional as F

from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models import checkpoint
from diptych.models.load import load
from diptych.models.model import Model
from diptych.models.tokenizers import open_tokenizer
from diptych.models.towers.clip import build
from diptych.models.towers.config import (
    ClipConfig,
    ResNetConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    TextConfig,
    VitConfig,
)
from diptych.models.towers.presets import preset
from diptych.models.verification import CAPTIONS, reference_images

OPEN_CLIP_SIDE = Path(__file__).parent / "peers" / "open_clip_files.py"
REPAIRED = tuple(html.unescape(caption) for caption in CAPTIONS)
CONTEXT, SPACE = 77, 40
PAPER = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


TEXT = TextConfig(CONTEXT, width=64, layers=2, heads=1)
VIT = ClipConfig(SPACE, VitConfig((32, 32), 8, 128, 2, 2), TEXT)
SMALL = SiglipVisionConfig((48, 48), 16, 96, 2, 3)
PIECES = SiglipTextConfig(16, 120, 64, 2, 2)
FAMILIES = {
    "ViT, QuickGELU": VIT,
    "ViT, GELU": replace(VIT, activation="gelu"),
    "ModifiedResNet": replace(VIT, vision=ResNetConfig((64, 64), (1, 2, 1, 1), 8, 4)),
    "SigLIP": replace(preset("ViT-B-16-SigLIP"), text=PIECES),
    "SigLIP 2": replace(preset("ViT-B-32-SigLIP2-256"), text=replace(PIECES, pad_id=0)),
}
LIBRARIES = ("openai", "open_clip", "transformers", "diptych")


def is_siglip(name: str) -> bool:
    """Tell whether texts are padded, images squashed and a bias learned."""
    return name.startswith("SigLIP")


def towers(name: str) -> ClipConfig:
    """Return a family's towers; SigLIP's are small where timm does not have to build them."""
    config = FAMILIES[name]
    if is_siglip(name) and not peers_python():
        return replace(config, embed_dim=SMALL.width, vision=SMALL)
    return config


@cache
def clip_words() -> Tokenizer:
    """Return OpenAI's vocabulary, which open_clip carries; without it one of our own."""
    if not peers_python():
        return Tokenizer.train(["a photo of a red dog", *CAPTIONS[1:7]] * 9, size=560, context_length=CONTEXT)
    return Tokenizer.from_merges(open_clip_merges(), context_length=CONTEXT)


def words(name: str, library: str, folder: Path) -> Any:
    """Write a family's tokenizer into a folder as a library does; return transformers' tokenizer of it."""
    from transformers import AutoTokenizer, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    if not is_siglip(name):
        clip_words().save(folder)
        return CLIPTokenizer.from_pretrained(str(folder))
    (_pieces if name == "SigLIP" else _gemma)(library, folder)
    return AutoTokenizer.from_pretrained(str(folder))


def _pieces(library: str, folder: Path) -> None:
    """Train SigLIP's kind of vocabulary: spiece.model for transformers, tokenizer.json for open_clip."""
    import sentencepiece
    from transformers import SiglipTokenizer, T5Tokenizer

    raw, lines = io.BytesIO(), [caption.lower() for caption in CAPTIONS if caption] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=raw, vocab_size=PIECES.vocab_size, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    source = folder.with_name(f"{folder.name}-spiece")
    source.mkdir()
    (source / "spiece.model").write_bytes(raw.getvalue())
    if library == "open_clip":
        made = T5Tokenizer.from_pretrained(source, extra_ids=0, pad_token="</s>", padding_side="right")
    else:
        made = SiglipTokenizer(str(source / "spiece.model"), model_max_length=PIECES.context_length)
    made.save_pretrained(folder)
    shutil.rmtree(source)


def _gemma(library: str, folder: Path) -> None:
    """Write SigLIP 2's kind of vocabulary: Gemma's special tokens and bytes, then letters, no merges."""
    from tokenizers import processors
    from transformers import GemmaTokenizer
    from transformers.models.siglip2 import Siglip2Tokenizer

    letters = sorted({letter for caption in CAPTIONS for letter in caption.lower()} | {"▁"})
    names = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    kind = GemmaTokenizer if library == "open_clip" else Siglip2Tokenizer
    made = kind(vocab={token: place for place, token in enumerate(names)}, merges=[], padding_side="right")
    made._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    made.model_max_length = PIECES.context_length
    made.save_pretrained(folder)


def described(name: str, tokenizer: Any) -> ClipConfig:
    """Return a family's towers for a tokenizer of transformers or ours."""
    size = tokenizer.vocab_size if isinstance(tokenizer, Tokenizer) else len(tokenizer)
    config = towers(name)
    if is_siglip(name):
        return replace(config, text=replace(config.text, vocab_size=size))
    return replace(config, text=replace(config.text, vocab_size=size, start_id=size - 2, end_id=size - 1))


def write(name: str, library: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write a family's checkpoint with a library's own code.

    Returns:
        What to load, and the words that `load` has to be told because these files do not say them.
    """
    folder.mkdir(parents=True)
    if library == "diptych":
        return _write_diptych(name, folder / "model"), {}
    if library == "transformers":
        return _write_transformers(name, folder / "model"), {}
    _write_open_clip(name, folder)
    if library == "open_clip":
        return folder / "hub", {}
    # open_clip traced it: it lacks the numbers that OpenAI's own archives hold, so little is implied.
    stated = {
        "tokenizer": folder / "tokenizer",
        "preprocess": "clip",
        "config": folder / "hub" / "open_clip_config.json",
    }
    return folder / "archive.pt", stated


def _write_diptych(name: str, folder: Path) -> Path:
    made = words(name, "transformers", folder.with_name("tokenizer"))
    config = described(name, made)
    tokenizer = open_tokenizer(folder.with_name("tokenizer"), config.text)
    clip = build(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * (0.2 if parameter.ndim < 2 else parameter[0].numel() ** -0.5))
            parameter.copy_(parameter.half())  # OpenAI's loader rounds to it
    size = config.vision.image_size
    half = Preprocess(size, "squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    checkpoint.save(folder, Model(clip, tokenizer, half if is_siglip(name) else Preprocess(size)))
    return folder


def _write_transformers(name: str, folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    tokenizer = words(name, "transformers", folder)
    config = described(name, tokenizer)
    acts = {"gelu_tanh": "gelu_pytorch_tanh"}
    vision, text = (
        {
            "hidden_size": tower.width, "intermediate_size": int(tower.width * tower.mlp_ratio),
            "num_hidden_layers": tower.layers, "num_attention_heads": tower.heads,
            "hidden_act": acts.get(act, act), "layer_norm_eps": config.layer_norm_eps,
        }
        for tower, act in (
            (config.vision, config.activation), (config.text, config.text_activation or config.activation),
        )
    )  # fmt: skip
    vision |= {"image_size": config.vision.image_size[0], "patch_size": config.vision.patch_size}
    text |= {"vocab_size": config.text.vocab_size, "max_position_embeddings": config.text.context_length}
    torch.manual_seed(0)
    if is_siglip(name):
        text |= {"projection_size": config.embed_dim}
        model: Any = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        text |= {"bos_token_id": config.text.start_id, "eos_token_id": config.text.end_id}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.embed_dim))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.1 if parameter.ndim < 2 else 0.03))
            parameter.copy_(parameter.half())  # OpenAI's loader rounds to it
    model.save_pretrained(folder)
    _image_processor(name, config.vision.image_size[0]).save_pretrained(folder)
    return folder


def _image_processor(name: str, side: int) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    square = {"height": side, "width": side}
    if is_siglip(name):
        return SiglipImageProcessorPil(size=square, resample=3)
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)


def _write_open_clip(name: str, folder: Path) -> None:
    tokenizer = words(name, "open_clip", folder / "tokenizer")
    config = described(name, tokenizer)
    siglip = is_siglip(name)
    side = config.vision.image_size[0]
    text: dict[str, Any] = {
        "context_length": config.text.context_length, "vocab_size": config.text.vocab_size,
        "width": config.text.width, "heads": config.text.heads, "layers": config.text.layers,
    }  # fmt: skip
    if siglip:
        trunk = "vit_base_patch16_siglip_224" if name == "SigLIP" else "vit_base_patch32_siglip_256"
        vision: dict[str, Any] = {
            "image_size": side, "timm_model_name": trunk, "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        }  # fmt: skip
        text |= {
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
            "tokenizer_kwargs": {"clean": "canonicalize"}, "hf_tokenizer_name": "local",
        }  # fmt: skip
        text |= {} if name == "SigLIP" else {"act_kwargs": {"approximate": "tanh"}}
        model: dict[str, Any] = {"custom_text": True, "init_logit_bias": -10}
    else:
        resnet = isinstance(config.vision, ResNetConfig)
        patch = None if resnet else config.vision.patch_size
        vision = {"image_size": side, "layers": config.vision.layers, "patch_size": patch}
        vision |= {"width": config.vision.width}
        model = {"quick_gelu": config.activation == "quick_gelu"}
    model |= {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text}
    shape = {"interpolation": "bicubic", "resize_mode": "squash" if siglip else "shortest"}
    setup = {"model_cfg": model, "preprocess_cfg": (HALF if siglip else PAPER) | shape, "archive": not siglip}
    (folder / "setup.json").write_text(json.dumps(setup))
    _open_clip("write", folder, name, CAPTIONS)


def ask(name: str, library: str, folder: Path, captions: tuple[str, ...], **stated: Any) -> dict[str, Tensor]:
    """Load `folder/model` with a library's own loader, and return what it makes of images and captions."""
    if library == "diptych":
        return ours(load(folder / "model", **stated), captions)
    if library == "transformers":
        return _ask_transformers(name, folder / "model", captions)
    return _open_clip("read", folder, name, captions)


def ours(model: Model, captions: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what a model of ours makes of its reference images, and of captions."""
    pixels, tokens = model.preprocess_images(images(model.config)), model.tokenize(captions)
    return {
        "pixels": pixels, "tokens": tokens, "image": model.encode_image(pixels, normalize=True).clone(),
        "text": model.encode_text(tokens, normalize=True).clone(),
        "scale": model.clip.logit_scale.detach().reshape(()),
        "bias": torch.tensor(model.bias),
    }  # fmt: skip


def images(config: ClipConfig) -> list[Image.Image]:
    return [Image.fromarray(image) for image in reference_images(config.vision.image_size)]


def _ask_transformers(name: str, folder: Path, captions: tuple[str, ...]) -> dict[str, Tensor]:
    from transformers import AutoModel, AutoProcessor

    model, missing = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(missing.values()), missing
    processor = AutoProcessor.from_pretrained(folder)
    given = processor(
        text=list(captions), images=images(towers(name)), padding="max_length", truncation=True,
        max_length=towers(name).text.context_length, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        actual = model.eval()(input_ids=given["input_ids"], pixel_values=given["pixel_values"])
    bias = getattr(model, "logit_bias", torch.zeros(()))
    return {
        "pixels": given["pixel_values"], "tokens": given["input_ids"], "image": actual.image_embeds,
        "text": actual.text_embeds, "scale": model.logit_scale.detach().reshape(()),
        "bias": bias.detach().reshape(()),
    }  # fmt: skip


def _open_clip(command: str, folder: Path, name: str, captions: tuple[str, ...]) -> dict[str, Tensor]:
    for number, image in enumerate(images(towers(name))):
        image.save(folder / f"image_{number}.png")
    (folder / "captions.json").write_text(json.dumps(captions))
    run_peer(OPEN_CLIP_SIDE, command, folder)
    return answered(folder)


def answered(folder: Path) -> dict[str, Tensor]:
    """Read what open_clip answered last."""
    actual = load_file(folder / "out.safetensors")
    return {
        "pixels": actual["pixels"], "tokens": actual["tokens"],
        "image": F.normalize(actual["image_features"], dim=-1),
        "text": F.normalize(actual["text_features"], dim=-1),
        "scale": actual["logit_scale"].reshape(()), "bias": actual["logit_bias"].reshape(()),
    }  # fmt: skip
