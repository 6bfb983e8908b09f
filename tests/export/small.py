"""Small models with weights that every branch of the towers notices."""

import torch

from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import Activation, ClipConfig, ResNetConfig, TextConfig, VitConfig

CAPTIONS = ["a red circle above a blue square", "two green dogs", "seventeen photos of a café"]
VISION: dict[str, VitConfig | ResNetConfig] = {
    "vit": VitConfig((32, 48), 16, 64, 3, 2),
    "vit-32": VitConfig((32, 32), 16, 64, 3, 2),
    "resnet": ResNetConfig((64, 64), (2, 1, 1, 1), 16, 8),
    "resnet-no-pool": ResNetConfig((32, 48), (1, 1, 2, 1), 8, 4, stem_pool=False),
}


def small_model(vision: str = "vit", *, activation: Activation = "quick_gelu", seed: int = 0) -> Model:
    words = Tokenizer.train(CAPTIONS * 20, size=540, context_length=16)
    text = TextConfig(16, words.vocab_size, 64, 3, 2, words.start_id, words.end_id)
    config = ClipConfig(48, VISION[vision], text, activation)
    clip = build(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for name, buffer in clip.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return Model(clip.eval(), words, Preprocess(size=config.vision.image_size), {"recipe": "test"})
