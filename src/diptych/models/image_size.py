"""A model for images of another size than it learned with: its learned positions are stretched.

Source: open_clip 3.3 `resize_pos_embed` (for SigLIP timm's `resample_abs_pos_embed`): bicubic, antialiased.
transformers' `interpolate_pos_encoding` is bicubic without antialiasing and gives slightly other positions.
"""

from dataclasses import replace

from diptych.core.errors import UsageError
from diptych.models.model import Model
from diptych.models.towers.clip import meta_init
from diptych.models.towers.config import ResNetConfig, VitConfig, check_sizes
from diptych.models.towers.vit import interpolate_positions

POSITIONS = "vision.positional_embedding"


def at_image_size(model: Model, image_size: int | tuple[int, int]) -> Model:
    """Return a model that reads images of another size; everything else is shared with the given one.

    Args:
        model: with a vision Transformer.
        image_size: (height, width), or both as one number; for CLIP's towers multiples of the patch size.

    Raises:
        UsageError: the tower cannot read such images.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    vision = model.config.vision
    if len(size) != 2 or not all(type(side) is int for side in size):
        raise UsageError(
            "this is no image size",
            where="image_size",
            found=repr(image_size)[:60],
            expected="pixels: (height, width)",
        )
    if size == tuple(vision.image_size):
        return model
    if isinstance(vision, ResNetConfig):
        raise UsageError(
            "the positions of a ModifiedResNet are not stretched",
            where="image_size",
            found=f"{size}",
            expected=f"{vision.image_size}, or a vision Transformer",
            fix="leave image_size= out",
        )
    wide = replace(vision, image_size=size)
    config = replace(model.config, vision=wide)
    check_sizes(config)
    state = model.clip.state_dict()
    extra = 1 if isinstance(vision, VitConfig) else 0
    state[POSITIONS] = interpolate_positions(state[POSITIONS], vision.grid, wide.grid, extra=extra)
    clip = meta_init(config)
    clip.load_state_dict(state, assign=True)
    train = model.preprocess.train_resize
    scaled = None if train is None else round(train * min(size) / min(vision.image_size))
    preprocess = replace(model.preprocess, size=size, train_resize=scaled)
    origin = {**model.provenance, "positions_stretched_from": list(vision.image_size)}
    return Model(clip.eval(), model.tokenizer, preprocess, origin)
