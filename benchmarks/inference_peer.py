"""The other side of `inference.py`: open_clip's towers with the weights that lie in the folder.

    python inference_peer.py --contestant | --start NAME FOLDER image|both

Runs in the peers' environment, which need not have diptych. As a contestant it reads questions and writes
answers, one JSON line each.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def timed(encode: Callable[[Any], Any], pieces: Sequence[Any], count: int) -> dict[str, float]:
    """Encode some pieces in turn; return wall time and processor time of all threads."""
    encode(pieces[0])
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        encode(pieces[number % len(pieces)])
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}


def open_model(folder: Path) -> tuple[Any, Any]:
    """Build open_clip's model and transform, and load the weights of the folder."""
    from training_peer import import_torchvision

    keep = import_torchvision()
    import open_clip

    del keep
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vision, text = config["vision"], config["text"]
    shape = {
        "embed_dim": config["embed_dim"],
        "quick_gelu": config["activation"] == "quick_gelu",
        "vision_cfg": {
            "image_size": vision["image_size"][0],
            "layers": vision["layers"],
            "width": vision["width"],
        }
        | ({"patch_size": vision["patch_size"]} if vision["kind"] == "vit" else {}),
        "text_cfg": {
            name: text[name] for name in ("context_length", "vocab_size", "width", "layers", "heads")
        },
    }
    place = folder / "open_clip_config"
    place.mkdir(exist_ok=True)
    (place / "bench-model.json").write_text(json.dumps(shape), encoding="utf-8")
    open_clip.add_model_config(place)
    model, _, transform = open_clip.create_model_and_transforms(
        "bench-model", pretrained=str(folder / "open_clip.safetensors")
    )
    return model.eval(), transform


class Theirs:
    """open_clip in float32 or under bfloat16 autocast, as its own evaluation runs it."""

    def build(self, *, name: str, folder: str) -> dict[str, Any]:
        """Open the model and the inputs; return the facts about them."""
        import numpy as np
        import torch

        self.half = name.endswith("bfloat16")
        self.model, _ = open_model(Path(folder))
        files = {"image": "pixels.npy", "text": "tokens.npy"}
        self.inputs = {kind: torch.from_numpy(np.load(Path(folder) / file)) for kind, file in files.items()}
        return {"versions": {"open_clip": version("open_clip_torch"), "torch": torch.__version__}}

    def _encode(self, kind: str) -> Callable[[Any], Any]:
        import torch

        encode = getattr(self.model, f"encode_{kind}")

        def run(given: Any) -> Any:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
                return encode(given)

        return run

    def embed(self, *, kind: str) -> list[list[float]]:
        """Return the unit embeddings of all inputs."""
        rows = self._encode(kind)(self.inputs[kind]).float()
        return (rows / rows.norm(dim=-1, keepdim=True)).tolist()

    def run(self, *, kind: str, batch: int, count: int) -> dict[str, float]:
        """Encode a batch some times; return the seconds."""
        given = self.inputs[kind]
        pieces = [given[start : start + batch] for start in range(0, len(given), batch)]
        return timed(self._encode(kind), pieces, count)


def start(folder: Path, kind: str) -> None:
    """Embed one image file, or that and a text, as the first thing a process does."""
    model, transform = open_model(folder)
    import open_clip
    import torch
    from PIL import Image

    with torch.inference_mode():
        rows = model.encode_image(transform(Image.open(folder / "picture.jpg")).unsqueeze(0))
        if kind == "both":
            rows = rows * model.encode_text(open_clip.tokenize(["a photo of a dog"]))
    print(float(rows.sum()))


def main() -> None:
    """Serve as a contestant, or start once."""
    if sys.argv[1] == "--start":
        start(Path(sys.argv[3]), sys.argv[4])
        return
    from contest import answer_questions

    theirs = Theirs()
    answer_questions({"build": theirs.build, "embed": theirs.embed, "run": theirs.run})


if __name__ == "__main__":
    main()
