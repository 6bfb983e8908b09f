"""A model whose answers can be worked out by hand: pictures and texts are colors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need, Pair
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import TokenCounts
from diptych.evaluate.prompts.templates import PHOTO, Templates
from diptych.evaluate.suite.plan import TaskSpec, open_own
from diptych.evaluate.suite.run import SourceEvaluator
from diptych.models.encode import Encoder

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WORDS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
END = 999


def solid(color: tuple[int, int, int]) -> bytes:
    """A PNG of one color."""
    import io

    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


class ColorModel(Encoder):
    """A picture is its mean color; a text is the sum of the colors it names, and a bit of everything."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(embed_dim=3, text=SimpleNamespace(end_id=END), logit_bias_init=None)
        self.clip = torch.nn.Identity()
        self.device = torch.device("cpu")
        self.preprocess = Preprocess(size=(8, 8))
        self.tokenizer = self
        self.counts, self.context_length = TokenCounts(), 77
        self.scale, self.bias = 10.0, 0.0
        self.texts: list[str] = []
        self.batches: list[int] = []

    def __repr__(self) -> str:
        return "ColorModel()"

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """A row a text, the same one for texts that differ in case and white space alone."""
        numbers = []
        for text in (" ".join(text.lower().split()) for text in texts):
            self.texts += [] if text in self.texts else [text]
            numbers.append(self.texts.index(text))
        return np.array([[number, END, 0] for number in numbers])

    def encode_batch(self, batch: np.ndarray, precision: str = "", *, output: str = "embeds") -> np.ndarray:
        if batch.ndim != 2:
            return self._rows(batch.mean(axis=(1, 2)) / 255, output)
        self.batches.append(len(batch))
        rows = []
        for number in batch[:, 0].tolist():
            words = self.texts[number].replace(".", "").split()
            rows.append(np.sum([WORDS.get(word, (0.01, 0.01, 0.01)) for word in words], axis=0))
        return self._rows(np.array(rows), output)

    def _rows(self, rows: np.ndarray, output: str = "embeds") -> np.ndarray:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True) if output == "embeds" else 1
        return (rows / lengths).astype(np.float32)


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


def evaluator(source: Swatches, *columns: str, templates: Templates = PHOTO) -> SourceEvaluator:
    """Evaluator of zero-shot tasks on columns of labels; an empty column is retrieval."""
    specs = [TaskSpec(column or "pairs", "a source", labels=column) for column in columns]
    tasks = [replace(open_own(spec, source, Need.NOTHING), templates=templates) for spec in specs]
    return SourceEvaluator(source, tuple(tasks))


@pytest.fixture
def color_model() -> ColorModel:
    return ColorModel()


@pytest.fixture
def swatches() -> Swatches:
    """Two right, one wrong, one unreadable, one without a label; a caption that two pictures share."""
    return Swatches(
        [
            (solid(RED), ("a red thing", "crimson red"), {"color": "red"}),
            (solid(GREEN), ("a green thing",), {"color": "green"}),
            (solid(BLUE), ("a red thing",), {"color": "red"}),
            (b"broken", ("a blue thing",), {"color": "blue"}),
            (solid(GREEN), ("a green thing",), {"color": None}),
        ]
    )
