"""A model whose answers can be worked out by hand: pictures and texts are colours."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Pair
from diptych.data.images import Preprocess

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WORDS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
END = 999


def solid(colour: tuple[int, int, int]) -> bytes:
    """A PNG of one colour."""
    import io

    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


class ColourModel:
    """A picture is its mean colour; a text is the sum of the colours it names, and a bit of everything."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(embed_dim=3, text=SimpleNamespace(end_id=END))
        self.clip = torch.nn.Identity()
        self.device = torch.device("cpu")
        self.preprocess = Preprocess(size=(8, 8))
        self.texts: list[str] = []
        self.batches: list[int] = []

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        first = len(self.texts)
        self.texts += texts
        return torch.tensor([[number, END, 0] for number in range(first, len(self.texts))])

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(tokens))
        rows = []
        for number in tokens[:, 0].tolist():
            words = self.texts[number].lower().replace(".", "").split()
            rows.append(np.sum([WORDS.get(word, (0.01, 0.01, 0.01)) for word in words], axis=0))
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def normalize_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float() / 255

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))


class Swatches:
    """A source of solid pictures."""

    name = "swatches"

    def __init__(self, rows: Sequence[tuple[bytes, tuple[str, ...], dict[str, Field]]]) -> None:
        self._rows = rows

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        for number, (image, captions, fields) in enumerate(self._rows):
            yield Pair(str(number), image, captions, fields)

    def inputs(self) -> tuple[FileEntry, ...]:
        return ()


@pytest.fixture
def colour_model() -> ColourModel:
    return ColourModel()


@pytest.fixture
def swatches() -> Swatches:
    """Two right, one wrong, one unreadable, one without a label; a caption that two pictures share."""
    return Swatches(
        [
            (solid(RED), ("a red thing", "crimson red"), {"colour": "red"}),
            (solid(GREEN), ("a green thing",), {"colour": "green"}),
            (solid(BLUE), ("a red thing",), {"colour": "red"}),
            (b"broken", ("a blue thing",), {"colour": "blue"}),
            (solid(GREEN), ("a green thing",), {"colour": None}),
        ]
    )
