"""The other side of `classifier.py`: open_clip's `build_zero_shot_classifier` with the weights of the folder.

Runs in the peers' environment, which need not have diptych. Reads questions and writes answers, one JSON line
each.
"""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contest import answer_questions
from inference_peer import open_model


class Theirs:
    """open_clip in float32 or under bfloat16 autocast, as its own evaluation runs it."""

    def build(self, *, name: str, folder: str, classes: int) -> dict[str, Any]:
        """Open the model and the words; return the facts about them."""
        import torch

        self.half = name.endswith("bfloat16")
        self.model, _ = open_model(Path(folder))
        words = json.loads((Path(folder) / "words.json").read_text(encoding="utf-8"))
        self.names, self.templates = words["classes"][:classes], words["templates"]
        versions = {"open_clip": version("open_clip_torch"), "torch": torch.__version__}
        return {"classes": len(self.names), "versions": versions}

    def run(self, *, keep: int) -> dict[str, Any]:
        """Build the classifier; return the time, and the rows of the first classes."""
        import open_clip
        import torch

        begin, begin_cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
            columns = open_clip.build_zero_shot_classifier(
                self.model, open_clip.tokenize, self.names, self.templates
            )
        spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
        return {**spent, "rows": columns.T[:keep].float().tolist()}


def main() -> None:
    """Serve as a contestant."""
    theirs = Theirs()
    answer_questions({"build": theirs.build, "run": theirs.run})


if __name__ == "__main__":
    main()
