"""Settings of processor files and preprocess_cfg that shape pixels: obeyed as in their library or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.models.published import open_clip_folder
from tests.models.test_transformers_files import clip_model, images, saved

from diptych.core.errors import DiptychError
from diptych.data.images.transforms import Preprocess
from diptych.models.formats.open_clip import preprocess_from_open_clip, preprocess_to_open_clip
from diptych.models.formats.transformers import preprocess_from_transformers
from diptych.models.load import load

STATED = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
SQUARE = {"height": 36, "width": 36}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("settings") / "clip", clip_model())


def processors(family: str, **settings: Any) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}[family](**STATED, **settings)


def test_a_nested_processor_goes_before_a_stale_preprocessor_file(written: Path) -> None:
    from transformers import AutoImageProcessor

    stale = {**STATED, "image_mean": [0.0] * 3, "size": 36, "crop_size": 36}
    (written / "preprocessor_config.json").write_text(json.dumps(stale))
    theirs = AutoImageProcessor.from_pretrained(written, backend="pil")
    ours = load(written)
    assert ours.preprocess.mean == tuple(theirs.image_mean) == (0.5, 0.4, 0.3)
    names = [entry["name"] for entry in ours.provenance["files"]]
    assert "processor_config.json" in names and "preprocessor_config.json" not in names


def test_a_processor_file_without_image_settings_gives_way(written: Path) -> None:
    from transformers import AutoImageProcessor

    nested = written / "processor_config.json"
    whole = nested.read_text()
    flat = {**STATED, "image_mean": [0.1, 0.2, 0.3], "size": 36, "crop_size": 36}
    (written / "preprocessor_config.json").write_text(json.dumps(flat))
    nested.write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    theirs = AutoImageProcessor.from_pretrained(written, backend="pil")
    assert load(written).preprocess.mean == tuple(theirs.image_mean) == (0.1, 0.2, 0.3)
    nested.write_text(whole)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("clip", {"size": 36, "crop_size": 36}),
        ("clip", {"size": {"shortest_edge": 36}, "crop_size": SQUARE, "resample": 2}),
        ("clip", {"size": (36, 36), "crop_size": SQUARE}),
        ("clip", {"size": SQUARE, "do_center_crop": False, "crop_size": 20}),
        ("siglip", {"size": SQUARE}),
        ("siglip", {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 36}),
    ],
)  # fmt: skip
def test_sizes_in_every_form_give_the_pixels_of_transformers(family: str, settings: Any) -> None:
    theirs = processors(family, **settings)
    ours = preprocess_from_transformers(json.loads(theirs.to_json_string()), (36, 36), family)
    expected = theirs(images(), return_tensors="pt")["pixel_values"]
    for image, pixels in zip(images(), expected, strict=True):
        assert (ours(image) - pixels).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("family", "settings", "stated"),
    [
        ("siglip", {"size": {"shortest_edge": 36}}, "size"),
        ("siglip", {"size": 36}, "size"),
        ("clip", {"crop_size": 36}, "size"),  # 224 is the default, whatever the tower
        ("clip", {"size": {"shortest_edge": 36}}, "crop_size"),
        ("clip", {"size": {"shortest_edge": 36, "longest_edge": 40}, "crop_size": 36}, "size"),
        ("clip", {"size": 36, "crop_size": 36, "do_pad": True}, "do_pad"),
        ("clip", {"size": 36, "crop_size": 36, "crop_pct": 0.9}, "crop_pct"),
        ("clip", {"size": 36, "crop_size": 36, "use_square_size": True}, "use_square_size"),
        ("clip", {"size": 36, "crop_size": 36, "resample": 0}, "resample"),
        ("clip", {"size": 36, "crop_size": 36, "rescale_factor": 1 / 127.5}, "rescale_factor"),
        ("clip", {"size": 36, "crop_size": 36, "do_rescale": False}, "do_rescale"),
        ("clip", {"size": 36, "crop_size": 36, "image_processor_type": "ConvNextImageProcessor"},
         "image_processor_type"),
    ],
)  # fmt: skip
def test_settings_that_shape_pixels_otherwise_are_refused_by_name(
    family: str, settings: Any, stated: str
) -> None:
    with pytest.raises(DiptychError, match=stated):
        preprocess_from_transformers({**STATED, **settings}, (36, 36), family)


def test_settings_that_are_off_or_shape_no_pixel_are_no_obstacle() -> None:
    harmless = {"do_pad": None, "crop_pct": None, "do_convert_rgb": False, "processor_class": "CLIPProcessor",
                "feature_extractor_type": "CLIPFeatureExtractor", "return_tensors": "pt"}  # fmt: skip
    sizes = {"size": 36, "crop_size": 36}
    assert preprocess_from_transformers({**STATED, **sizes, **harmless}, (36, 36), "clip").size == (36, 36)


def test_open_clips_fill_color_shapes_no_pixel(tmp_path: Path) -> None:
    """It fills what resize_mode "longest" leaves empty, which is refused."""
    changed = open_clip_folder(tmp_path / "hub", lambda it: it["preprocess_cfg"].update(fill_color=3))
    assert load(changed).preprocess == load(open_clip_folder(tmp_path / "plain")).preprocess


def test_open_clip_resizes_for_oblong_towers_in_bicubic_whatever_is_said() -> None:
    cfg = {"interpolation": "bilinear", "resize_mode": "shortest"}
    assert preprocess_from_open_clip(cfg, (32, 48)).interpolation == "bicubic"
    assert preprocess_from_open_clip(cfg, (32, 32)).interpolation == "bilinear"
    squash = {"interpolation": "bilinear", "resize_mode": "squash"}
    assert preprocess_from_open_clip(squash, (32, 48)).interpolation == "bilinear"
    with pytest.raises(DiptychError, match="interpolation"):
        preprocess_to_open_clip(Preprocess((32, 48), "shortest", "bilinear"))
