"""A million strings, real and fuzzed, through open_clip's SimpleTokenizer and through ours."""

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.tokenizer import fuzz
from tests.peers import peers_environment, require_peers_python

from diptych.data.tokenizers.clip import Tokenizer

SIDE = Path(__file__).parents[1] / "peers" / "open_clip_tokens.py"
STRINGS = int(os.environ.get("DIPTYCH_PARITY_STRINGS", "1000000"))
CHUNK = 20_000


def strings(captions: list[str]) -> Iterator[list[str]]:
    """Yield every caption, then captions written differently, then fuzz, in chunks."""
    yield captions
    made, number = len(captions), 0
    while made < STRINGS:
        rng = random.Random(number)
        half = min(CHUNK, STRINGS - made) // 2
        words = [word for caption in rng.sample(captions, 500) for word in caption.split()]
        spoken = [" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(half)]
        chunk = [*spoken, *fuzz(captions, min(CHUNK, STRINGS - made) - half, seed=number)]
        made, number = made + len(chunk), number + 1
        yield chunk


@pytest.mark.deep
@pytest.mark.timeout(3000)
def test_a_million_strings_have_the_ids_of_open_clips_tokenizer(shared_data, tmp_path):
    python = require_peers_python()
    tokenizer = Tokenizer.from_merges(shared_data / "text" / "bpe_simple_vocab_16e6.txt.gz")
    annotations = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    peer = subprocess.Popen(
        [python, str(SIDE)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii", env=peers_environment(),
    )  # fmt: skip
    assert peer.stdin is not None and peer.stdout is not None
    seen = 0
    try:
        for chunk in strings([row["caption"] for row in annotations]):
            peer.stdin.write(json.dumps(chunk) + "\n")
            peer.stdin.flush()
            rows = tokenizer.tokens(chunk)  # while the peer works on the same strings
            ours = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows.astype(np.int64)]
            theirs = json.loads(peer.stdout.readline())
            wrong = [text for text, a, b in zip(chunk, ours, theirs, strict=True) if a != b]
            assert wrong == []
            seen += len(chunk)
    finally:
        peer.stdin.close()
        peer.wait(timeout=60)
    print(f"{seen:,} strings: equal rows of 77 ids")
    assert seen >= STRINGS
