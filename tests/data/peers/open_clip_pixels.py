"""The peer's half of test_open_clip_pixels: runs under a Python that has open_clip, never imports diptych.

Usage: python open_clip_pixels.py FOLDER. Reads setup.json ({"files": […], "settings": {name: arguments of
image_transform}}); writes NAME.npy, (N, 3, H, W) float32, for every setting.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torchvision_stub  # noqa: F401 — before open_clip
from open_clip.transform import image_transform
from PIL import Image


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    setup = json.loads((folder / "setup.json").read_text())
    for name, arguments in setup["settings"].items():
        arguments["image_size"] = tuple(arguments["image_size"])
        transform = image_transform(is_train=False, **arguments)
        rows = [transform(Image.open(file)).numpy() for file in setup["files"]]
        np.save(folder / f"{name}.npy", np.stack(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
