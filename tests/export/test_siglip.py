"""SigLIP's towers in onnxruntime give what they give in torch."""

from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from diptych.export.onnx import graphs
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, SiglipTextConfig, SiglipVisionConfig

CASES = [((64, 64), "gelu_tanh", True), ((70, 50), "gelu_tanh", False), ((64, 48), "gelu", True)]


@pytest.mark.parametrize(("size", "activation", "head"), CASES)
def test_towers_equal_torch(size: tuple[int, int], activation: Any, head: bool) -> None:
    text = SiglipTextConfig(16, 300, 64, 3, 2, head=head)
    config = ClipConfig(64, SiglipVisionConfig(size, 16, 64, 3, 2), text, activation, layer_norm_eps=1e-6)
    clip = build(config, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    written = graphs(SimpleNamespace(clip=clip, config=config, digest=""))  # type: ignore[arg-type]
    sessions = {
        name: onnxruntime.InferenceSession(graph.SerializeToString()) for name, graph in written.items()
    }
    for batch, length in ((1, 16), (3, 9), (32, 16)):
        pixels = torch.randn(batch, 3, *size, generator=generator)
        tokens = torch.randint(0, 300, (batch, length), generator=generator)
        for name, key, given in (("image.onnx", "pixels", pixels), ("text.onnx", "tokens", tokens)):
            with torch.no_grad():
                expected = clip.encode_image(given) if key == "pixels" else clip.encode_text(given)
            found = torch.from_numpy(sessions[name].run(None, {key: given.numpy()})[0])
            assert (F.normalize(found, dim=-1) - F.normalize(expected, dim=-1)).abs().max() < 1e-5, name
