"""Turn images into what the image tower knows before the projection into the shared space.

Linear probes read these rows: the projection drops what captions do not speak of. A vision Transformer gives
its class token behind the last LayerNorm, a ResNet what its attention pool gathered, a SigLIP tower, which
has no projection, what it always gives. Rows are not scaled to unit length.

Reads: the model's own preprocessing. Writes: nothing.
Source: Radford et al. 2021, figure 3 (I_f) and appendix A.3.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Floats
from diptych.core.errors import UsageError
from diptych.models.encode import Precision

if TYPE_CHECKING:
    from diptych.models.model import Model


class PenultimateTower:
    """A model's image tower without its projection, with the face that encoding needs.

    Args:
        model: a loaded model.

    Raises:
        UsageError: the model is an export, whose towers end behind the projection.
    """

    def __init__(self, model: "Model") -> None:
        if not hasattr(model, "clip"):
            raise UsageError(
                "an exported model has no features before the projection",
                fix="load the checkpoint that it was exported from",
            )
        self.model, self.tokenizer = model, model.tokenizer
        self.preprocess, self.bulk_mode = model.preprocess, model.bulk_mode
        vision = model.config.vision
        self.config = SimpleNamespace(embed_dim=getattr(vision, "output_width", None) or vision.width)

    def image_rows(
        self, pixels: NDArray[np.uint8], precision: Precision = "float32", *, unit: bool = False
    ) -> Floats:
        """Return (B, D) float32 for uint8 pixels (B, H, W, 3); see `Model.image_rows`."""
        return self.model.image_rows(pixels, precision, unit=unit, projected=False)

    def text_rows(
        self,
        tokens: NDArray[np.int64],
        precision: Precision = "float32",  # noqa: ARG002 — the face of `Towers`
        *,
        unit: bool = False,  # noqa: ARG002
    ) -> Floats:
        """Refuse: a probe reads images.

        Raises:
            UsageError: always.
        """
        raise UsageError("there are no texts before the projection", found=f"{len(tokens)} texts")
