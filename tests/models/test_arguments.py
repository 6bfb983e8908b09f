"""Public functions refuse arguments that would end in NaN, in numbers without meaning or inside torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.export.small import small_model

import diptych as package
from diptych.core.errors import SettingsError, UsageError
from diptych.models.encode import encode_images, encode_texts
from diptych.models.model import Model

diptych: Any = package
SMALL = np.zeros((4, 5, 3), np.uint8)
PIXELS = torch.zeros(1, 3, 32, 48)


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


ENCODING: dict[str, Callable[[Any], Any]] = {
    "no batch": lambda m: m.encode([SMALL], batch_size=0),
    "a batch below nothing": lambda m: m.encode([SMALL], batch_size=-1),
    "half a batch": lambda m: m.encode([SMALL], batch_size=2.5),
    "a batch of True": lambda m: m.encode([SMALL], batch_size=True),
    "no batch of texts": lambda m: m.encode(["a", "b"], batch_size=0),
    "an image without pixels": lambda m: m.encode([SMALL[:0]]),
    "half a dimension": lambda m: m.encode([SMALL], truncate_dim=2.5),
    "workers below nothing": lambda m: m.encode([SMALL], workers=-1),
    "a number": lambda m: m.encode([5]),
    "None": lambda m: m.encode(None),
    "None among images": lambda m: m.encode([SMALL, None]),
    "a path in a str": lambda m: encode_images(m, ["path as str"]),
    "floats for pixels": lambda m: m.encode([SMALL / 255]),
    "a tensor for an image": lambda m: m.encode([PIXELS[0]]),
    "no texts": lambda m: encode_texts(m, None),
    "one text": lambda m: encode_texts(m, "one string"),
    "bytes for texts": lambda m: encode_texts(m, [b"a"]),
    "lists of texts": lambda m: m.encode([["a"]]),
    "another precision": lambda m: encode_texts(m, ["a"], precision="fp16"),
    "texts for the tokenizer": lambda m: m.tokenizer.tokens("cat"),
    "None for the tokenizer": lambda m: m.tokenize(None),
    "one class name": lambda m: diptych.build_classifier(m, "cat"),
    "class numbers": lambda m: diptych.build_classifier(m, [1, 2]),
    "templates in a str": lambda m: diptych.build_classifier(m, ["cat"], "a {}"),
}
TOWERS: dict[str, Callable[[Any], Any]] = {
    "pixels of another size": lambda m: m.encode_image(torch.zeros(1, 3, 40, 40)),
    "pixels without a batch": lambda m: m.encode_image(PIXELS[0]),
    "bytes for pixels": lambda m: m.encode_image(PIXELS.byte()),
    "logits of another size": lambda m: m.logits(torch.zeros(1, 3, 40, 40), ["a"]),
    "tokens without a batch": lambda m: m.encode_text(torch.tensor([1, 2])),
    "floats for tokens": lambda m: m.encode_text(torch.zeros(1, 16)),
    "a token behind the vocabulary": lambda m: m.encode_text(m.tokenize("a") + 9999),
    "a token before the vocabulary": lambda m: m.encode_text(m.tokenize("a") - 1),
    "a text": lambda m: m.encode_text("a cat"),
    "a path to preprocess": lambda m: m.preprocess("a.jpg"),
    "an image of no width": lambda m: m.preprocess(Image.new("RGB", (0, 5))),
    "paths to preprocess": lambda m: m.preprocess_images([Path("a.jpg")]),
    "another device": lambda m: m.to("gpu0"),
    "a device for encode": lambda m: m.encode(["a"], device="gpu0"),
}
OTHERS: dict[str, Callable[[Any], Any]] = {
    "a model without a name": lambda m: diptych.load(""),
    "a model's number": lambda m: diptych.load(5),
    "a source without a name": lambda m: diptych.open_source(""),
    "a source's number": lambda m: diptych.open_source(5),
    "no preset": lambda m: diptych.preset(None),
    "a name to build": lambda m: diptych.build("ViT-B-32", seed=0),
    "swapped arguments": lambda m: diptych.save(m, "folder"),
    "one side": lambda m: diptych.Preprocess(size=224),
    "sides that are no whole numbers": lambda m: diptych.Preprocess(size=(224.0, 224.0)),
    "a mean of nothing": lambda m: diptych.Preprocess(mean=(float("nan"),) * 3),
    "a deviation for one channel": lambda m: diptych.Preprocess(std=(0.5,)),
}
WRONG = ENCODING | TOWERS | OTHERS


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_where_they_come_in(model: Any, name: str) -> None:
    with pytest.raises(UsageError):
        WRONG[name](model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_in_our_words(model: Model, tmp_path: Path) -> None:
    diptych.save(tmp_path / "model", model)
    for ask in (model.to, lambda device: diptych.load(tmp_path / "model", device=device)):
        with pytest.raises(SettingsError, match=r"no such device[\s\S]*cuda"):
            ask("cuda")


def test_what_python_has_for_lists_of_texts_and_images_is_taken(model: Any) -> None:
    texts = ["a cat", "a dog"]
    expected = encode_texts(model, texts)
    for given in (tuple(texts), np.array(texts), (text for text in texts), dict.fromkeys(texts)):
        assert np.array_equal(encode_texts(model, given), expected)
    image = Image.fromarray(SMALL)
    assert len(model.encode((image for _ in range(3)), batch_size=np.int64(2))) == 3
    assert np.array_equal(model.encode_image(PIXELS.numpy()), model.encode_image(PIXELS))
