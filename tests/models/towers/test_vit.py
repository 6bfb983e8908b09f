"""The vision Transformer against transformers' CLIPVisionModel; position grids; non-square images."""

import pytest
import torch
from tests.models.towers.small import copy_blocks, lively
from torch.nn import functional as F

from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, TextConfig, VitConfig
from diptych.models.towers.vit import VisionTransformer, interpolate_positions

TEXT = TextConfig(context_length=8, vocab_size=50, width=32, layers=1, heads=2, start_id=48, end_id=49)


def tower(config: VitConfig, *, activation: str = "quick_gelu") -> VisionTransformer:
    clip = build(ClipConfig(24, config, TEXT, activation=activation), seed=0)  # type: ignore[arg-type]
    return lively(clip.vision)  # type: ignore[return-value]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_vision_tower_equals_transformers(activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tower(VitConfig((32, 32), 8, 48, 3, 4), activation=activation)
    config = transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=192, projection_dim=24, num_hidden_layers=3, num_attention_heads=4,
        image_size=32, patch_size=8, hidden_act=activation,
    )  # fmt: skip
    peer = transformers.CLIPVisionModelWithProjection(config).eval()
    inner = peer.vision_model
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        inner.embeddings.class_embedding.copy_(ours.class_embedding)
        inner.embeddings.patch_embedding.weight.copy_(ours.conv1.weight)
        inner.embeddings.position_embedding.weight.copy_(ours.positional_embedding)
        inner.pre_layrnorm.load_state_dict(ours.ln_pre.state_dict())
        inner.post_layernorm.load_state_dict(ours.ln_post.state_dict())
        copy_blocks(ours.blocks, inner.encoder.layers)
        peer.visual_projection.weight.copy_(ours.proj.t())
        embeds = peer(pixel_values=pixels).image_embeds
        assert (F.normalize(ours(pixels), dim=-1) - F.normalize(embeds, dim=-1)).abs().max() < 1e-5
        assert (ours.pooled(pixels) - inner(pixel_values=pixels).pooler_output).abs().max() < 1e-5


def test_non_square_images_and_channels_last_give_the_same_features() -> None:
    ours = tower(VitConfig((32, 16), 8, 32, 2, 2))
    pixels = torch.randn(3, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, last = ours(pixels), ours(pixels.contiguous(memory_format=torch.channels_last))
    assert plain.shape == (3, 24)
    assert torch.allclose(plain, last, atol=1e-5)


def test_patches_are_read_row_by_row() -> None:
    ours = tower(VitConfig((16, 24), 8, 32, 1, 2))
    pixels = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    rows = ours.conv1(pixels)[0]
    for index, (top, left) in enumerate([(0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16)]):
        patch = pixels[0, :, top : top + 8, left : left + 8]
        assert torch.allclose(rows[index], (ours.conv1.weight * patch).sum((1, 2, 3)), atol=1e-5)


def test_interpolated_positions_keep_the_class_token_and_the_corners_of_a_ramp() -> None:
    ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(16, 1)
    positions = torch.cat([torch.tensor([[9.0]]), ramp])
    wide = interpolate_positions(positions, (4, 4), (8, 6))
    grid = wide[1:].view(8, 6)
    assert wide[0].item() == 9.0
    assert torch.allclose(grid, grid[:, :1].expand(8, 6), atol=1e-5), "rows of a vertical ramp stay constant"
    assert (grid[1:, 0] > grid[:-1, 0]).all()


def test_interpolation_equals_open_clips_formula() -> None:
    positions = torch.randn(17, 5, generator=torch.Generator().manual_seed(0))
    image = positions[1:].reshape(1, 4, 4, 5).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(3, 5), mode="bicubic", antialias=True, align_corners=False)
    expected = image.permute(0, 2, 3, 1).reshape(15, 5)
    assert torch.equal(interpolate_positions(positions, (4, 4), (3, 5))[1:], expected)


def test_interpolation_refuses_a_grid_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        interpolate_positions(torch.zeros(6, 2), (2, 2), (4, 4))
