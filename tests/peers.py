"""Other libraries in a Python of their own (`make peers`): their scripts never import diptych."""

import importlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest


def transformers() -> Any:
    """Return the library, imported when the first test needs it: it takes seconds."""
    return importlib.import_module("transformers")


def peers_python() -> str | None:
    """Return the Python that has open_clip 3.3, if there is one."""
    return os.environ.get("DIPTYCH_PEERS_PYTHON")


def require_peers_python() -> str:
    """Return it, or skip the test."""
    return peers_python() or pytest.skip("set DIPTYCH_PEERS_PYTHON to a Python that has open_clip 3.3")


def peers_environment() -> dict[str, str]:
    stub = Path(__file__).parent / "data" / "peers"  # torchvision_stub
    return {**os.environ, "PYTHONPATH": str(stub), "HF_HUB_OFFLINE": "1"}


def run_peer(script: Path, *arguments: str | Path) -> None:
    """Run a peer's half of a test."""
    command = [require_peers_python(), str(script), *map(str, arguments)]
    subprocess.run(command, check=True, timeout=900, env=peers_environment())


def open_clip_merges() -> Path:
    """Return OpenAI's vocabulary, which open_clip carries with it."""
    code = "import importlib.util as u; print(u.find_spec('open_clip').submodule_search_locations[0])"
    command = [require_peers_python(), "-c", code]
    home = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return Path(home) / "bpe_simple_vocab_16e6.txt.gz"
