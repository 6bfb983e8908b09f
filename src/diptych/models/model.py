"""A model as its users hold it: towers, tokenizer, preprocessing and where it came from, always together.

Source: `encode_image`, `encode_text` and `preprocess` behave as open_clip 3.3's.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.core.checks import Floats
from diptych.core.errors import SettingsError
from diptych.core.machine import warn_of_emulated_bfloat16
from diptych.core.settings import to_mapping
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.siglip import SiglipTokenizer
from diptych.models.encode import Encoder, Output, Part, Precision
from diptych.models.tokenizers import AnyTokenizer
from diptych.models.towers.clip import Clip, unit_length
from diptych.models.towers.config import ClipConfig
from diptych.models.towers.numerics import HeldIn, device_of, hold_in
from diptych.models.towers.shared_prefix import PAYS, plan_sharing, read_shared
from diptych.models.towers.text import TextTransformer


class Model(Encoder):
    """Everything that is needed to turn images and texts into embeddings.

    `preprocess`, called with a Pillow image, returns (3, H, W) float32, bit-equal to open_clip's.

    Raises:
        SettingsError: the parts do not fit each other.
    """

    def __init__(
        self,
        clip: Clip,
        tokenizer: AnyTokenizer,
        preprocess: Preprocess,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.clip, self.config = clip, clip.config
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self.provenance: dict[str, Any] = dict(provenance or {})
        _check_tokenizer(clip.config, tokenizer)
        size, wanted = tuple(preprocess.size), tuple(clip.config.vision.image_size)
        if size != wanted:
            what, where = "preprocessing and image tower disagree on the image's size", "preprocess.size"
            expected, fix = f"{wanted} (height, width)", "give both the same size"
            raise SettingsError(what, where=where, found=str(size), expected=expected, fix=fix)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """What the image tower computes in; pixels are brought to it."""
        return next(self.clip.vision.parameters()).dtype

    @property
    def digest(self) -> str:
        """SHA-256 over weights, architecture, preprocessing and tokenizer: equal digests embed equally."""
        reading = self.preprocess.reading
        preprocess = to_mapping(self.preprocess)
        facts = {
            "config": to_mapping(self.config),
            "preprocess": {name: preprocess[name] for name in preprocess if name not in reading},
            "tokenizer": {**_tokenizer_facts(self.tokenizer), "digest": self.tokenizer.digest},
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in sorted(self.clip.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return self.preprocess.digest_with(digest.hexdigest())

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before the softmax."""
        return float(self.clip.logit_scale.detach().exp())

    @property
    def bias(self) -> float:
        """What is added to the logits of a model that learned with the sigmoid loss; 0 for others."""
        bias = getattr(self.clip, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach())

    def to(self, device: str | torch.device) -> "Model":
        """Move the weights to a device and return the model."""
        self.clip.to(device_of(device))
        return self

    def compute_in(self, precision: HeldIn) -> "Model":
        """Hold the weights in a precision for inference, and return the model (see `numerics.hold_in`).

        bfloat16 keeps a cosine of 0.9999 with float32 and halves the time where the processor has it; where
        not, a warning names its cost. It rounds the weights: to train or to save them, load the model anew.
        """
        if precision == "bfloat16" and self.device.type == "cpu":
            warn_of_emulated_bfloat16()
        hold_in(self.clip, precision)
        return self

    def normalize_pixels(self, pixels: Tensor) -> Tensor:
        """Return (B, 3, H, W) float32, normalized, on the model's device, for uint8 pixels 0..255."""
        # Back from a GPU the copy would not be whole when it is read.
        moved = pixels.to(self.device, non_blocking=pixels.device.type == "cpu")
        return self.preprocess.normalize(moved)

    def encode_batch(
        self, batch: NDArray[Any], precision: Precision = "float32", *, output: Output = "embeds"
    ) -> Floats:
        """Return one row per text or image; see `Encoder.encode_batch`."""
        tensor = torch.from_numpy(batch)
        with self._computing(precision):
            if batch.ndim == 2:
                features = self.encode_text(tensor)
            else:
                # (B, H, W, 3) seen as (B, 3, H, W) is channels-last in memory: what the convolutions want.
                pixels = self.normalize_pixels(tensor.permute(0, 3, 1, 2))
                pooled = output == "penultimate"
                features = self._run("penultimate", pixels) if pooled else self.encode_image(pixels)
        return _rows(features, output)

    def encode_prompts(self, tokens: NDArray[np.int64], precision: Precision = "float32") -> Floats | None:
        """Return text_embeds (B, E) of prompts (B, L) that begin alike; None where that spares nothing."""
        if not isinstance(self.clip.text, TextTransformer) or self.device.type != "cpu" or not len(tokens):
            return None
        plan = plan_sharing(tokens, self.config.text.end_id)
        if plan.share > PAYS:
            return None
        with self._computing(precision), self._inference():
            return _rows(read_shared(self.clip.text, tokens, plan), "embeds")

    def _run(self, part: Part, given: Any, *, unit: bool = False) -> Tensor:
        given = torch.as_tensor(given).to(self.device)
        with self._inference():
            if part == "text":
                features = self.clip.encode_text(given)
            else:
                vision = self.clip.vision.pooled if part == "penultimate" else self.clip.encode_image
                features = vision(given.to(self.dtype))
        return unit_length(features) if unit else features

    def _computing(self, precision: Precision) -> torch.autocast:
        if precision == "bfloat16" and self.device.type == "cpu":
            warn_of_emulated_bfloat16()
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")

    @contextmanager
    def _inference(self) -> Iterator[None]:
        training = self.clip.training
        if training:
            self.clip.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            if training:
                self.clip.train()


def _rows(features: Tensor, output: Output) -> Floats:
    features = features.float()
    rows: Floats = (unit_length(features) if output == "embeds" else features).cpu().numpy()
    return rows


def _tokenizer_facts(tokenizer: AnyTokenizer) -> dict[str, int]:
    names = ["vocab_size", "context_length", "start_id", "end_id"]
    if isinstance(tokenizer, SiglipTokenizer):
        names.append("pad_id")  # the tower reads its padding
    return {name: int(getattr(tokenizer, name)) for name in names}


def _check_tokenizer(config: ClipConfig, tokenizer: AnyTokenizer) -> None:
    fix = "use the tokenizer that the model learned with; ClipConfig.with_tokenizer for a new one"
    for name, value in _tokenizer_facts(tokenizer).items():
        wanted = getattr(config.text, name, None)
        if value != wanted:
            what, found = "tokenizer and text tower do not fit", f"{value} in the tokenizer"
            expected = f"{wanted} as in the model"
            raise SettingsError(what, where=name, found=found, expected=expected, fix=fix)
