"""SigLIP's towers in onnxruntime give what they give in torch."""

from dataclasses import replace

import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.export.graph import FLOAT, INT64, Graph, WeightFormat
from diptych.export.towers import BlockSettings, ModuleWeights, siglip_text, siglip_vision

siglip = pytest.importorskip("diptych.models.towers.siglip")
config = pytest.importorskip("diptych.models.towers.config")

CASES = [((64, 64), "gelu_tanh", True), ((70, 50), "gelu_tanh", False), ((64, 48), "gelu", True)]


@pytest.mark.parametrize(("size", "activation", "head"), CASES)
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_towers_equal_torch(size: tuple[int, int], activation: str, head: bool, batch: int) -> None:
    from diptych.models.towers.clip import build

    text = config.SiglipTextConfig(16, 300, 64, 3, 2, head=head)
    shape = config.ClipConfig(64, config.SiglipVisionConfig(size, 16, 64, 3, 2), text, activation)
    clip = build(replace(shape, layer_norm_eps=1e-6), seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    state = {name: tensor.detach().numpy() for name, tensor in clip.state_dict().items()}
    style = BlockSettings(activation, 1e-6)  # type: ignore[arg-type]

    def run(tower: str, given: Tensor) -> Tensor:
        graph, kind = Graph(WeightFormat()), FLOAT if tower == "vision" else INT64
        write, shape_of = (siglip_vision if tower == "vision" else siglip_text), getattr(shape, tower)
        features = write(ModuleWeights(graph, state, f"{tower}.", style), shape_of, "given")
        axes = ["batch", *given.shape[1:]] if tower == "vision" else ["batch", "length"]
        model = graph.model(tower, ("given", kind, axes), (features, "features", ("batch", 64)), {})
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return torch.from_numpy(session.run(None, {"given": given.numpy()})[0])

    pixels = torch.randn(batch, 3, *size, generator=generator)
    tokens = torch.randint(0, 300, (batch, 9 if batch == 3 else 16), generator=generator)
    with torch.no_grad():
        expected = {"vision": clip.encode_image(pixels), "text": clip.encode_text(tokens)}
    for tower, given in (("vision", pixels), ("text", tokens)):
        far = (
            (F.normalize(run(tower, given), dim=-1) - F.normalize(expected[tower], dim=-1)).abs().max().item()
        )
        assert far < 1e-5, tower
