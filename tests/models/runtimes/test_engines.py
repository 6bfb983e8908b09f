"""Tensors that stay in their file: the same model, and rubbish is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import load_external_data_for_model
from tests.export.small import small_model

from diptych.export.onnx import graphs
from diptych.models.runtimes.engines import LARGE, outlined


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_what_is_outlined_is_the_same_model(vision: str, tmp_path: Path) -> None:
    """onnx itself puts the tensors back, and finds the file as it was."""
    for name, model in graphs(small_model(vision)).items():
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        outline = onnx.load_model_from_string(outlined(path))
        sizes = [len(tensor.raw_data) for tensor in outline.graph.initializer]
        assert max(sizes) <= LARGE < max(len(tensor.raw_data) for tensor in model.graph.initializer)
        load_external_data_for_model(outline, str(tmp_path))
        for tensor in outline.graph.initializer:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
        assert outline == onnx.load(path)


def test_onnxruntime_finds_the_tensors(tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "image.onnx"
    path.write_bytes(graphs(model)["image.onnx"].SerializeToString())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    pixels = torch.randn(2, 3, *model.config.vision.image_size).numpy()
    found = onnxruntime.InferenceSession(outlined(path), options).run(None, {"pixels": pixels})[0]
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"pixels": pixels})[0]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "rubbish", [b"\xff" * 99, b"\x3a\x7f", b"\x3b", b"\x08", b"\x80" * 20, b"\x3a\x05\x2a\xff\xff\x03\x00"]
)
def test_what_is_no_message_is_refused(rubbish: bytes, tmp_path: Path) -> None:
    (tmp_path / "image.onnx").write_bytes(rubbish)
    with pytest.raises(ValueError, match="byte"):
        outlined(tmp_path / "image.onnx")
