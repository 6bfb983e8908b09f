"""The hand-made model and images of the evaluation tests."""

from tests.evaluate.conftest import color_model, swatches

__all__ = ["color_model", "swatches"]
