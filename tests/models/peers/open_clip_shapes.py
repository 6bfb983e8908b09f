"""The peer's half of test_presets: runs under a Python that has open_clip, never imports diptych.

Usage: python open_clip_shapes.py FOLDER. Reads names.json, a list of names of open_clip's configurations;
writes shapes.json: for each its configuration, its tensors' shapes, and what they do not tell: activations,
heads and LayerNorm constants. The models are built without memory.
"""

import json
import sys
from pathlib import Path

import torch
import torchvision_stub  # noqa: F401 — before open_clip
from open_clip.factory import get_model_config
from open_clip.model import CLIP, CustomTextCLIP


def told(model: torch.nn.Module, part: str) -> dict[str, list[object]]:
    """Return what the weights of one tower do not tell, each value once."""
    visual = part == "visual"
    modules = [module for name, module in model.named_modules() if name.startswith("visual") == visual]
    kinds = {"GELU", "GELUTanh", "QuickGELU", "QuickGELUActivation"}
    activations = {str(module) for module in modules if type(module).__name__ in kinds}
    heads = {module.num_heads for module in modules if isinstance(getattr(module, "num_heads", None), int)}
    eps = {module.eps for module in modules if isinstance(module, torch.nn.LayerNorm)}
    return {"activations": sorted(activations), "heads": sorted(heads), "eps": sorted(eps)}


def facts(name: str) -> dict[str, object]:
    config = get_model_config(name)
    settings = dict(config)
    build = CustomTextCLIP if settings.pop("custom_text", False) else CLIP
    with torch.device("meta"):
        model = build(**settings)
    return {
        "config": config,
        "shapes": {key: list(tensor.shape) for key, tensor in model.state_dict().items()},
        "visual": told(model, "visual"),
        "text": told(model, "text"),
    }


def main(folder: Path) -> None:
    names = json.loads((folder / "names.json").read_text())
    (folder / "shapes.json").write_text(json.dumps({name: facts(name) for name in names}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
