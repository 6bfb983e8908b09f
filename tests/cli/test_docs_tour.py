"""The tour rebuilds CLIP in plain torch: every block runs, and its assertions compare with the package."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tour.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
MOST_LINES = 250


def test_the_tour_is_short_and_every_block_runs() -> None:
    assert sum(len(block.splitlines()) for block in BLOCKS) <= MOST_LINES
    names: dict[str, object] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
