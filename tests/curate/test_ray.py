"""The Ray engine on a cluster of two nodes makes the bytes that local processes make."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.curate import worlds
from tests.curate.fault_server import jpeg
from tests.curate.pipeline.test_run import digests

from diptych.core.settings import dumps_toml, to_mapping
from diptych.curate.pipeline.run import curate

pytest.importorskip("ray")

SCRIPT = """
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from diptych.curate.pipeline.run import curate
from diptych.curate.pipeline.recipe import load_curate_recipe

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
assert len([node for node in ray.nodes() if node["Alive"]]) == 2
curate(load_curate_recipe(Path(sys.argv[1])), Path(sys.argv[2]), engine="ray")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.timeout(300)
def test_two_nodes_make_the_same_bytes(tmp_path: Path) -> None:
    rows = [(f"pair-{n}", jpeg(n), f"a dog number {n}, a black cat") for n in range(12)]
    pairs = worlds.write_pairs(tmp_path / "pairs.parquet", rows)
    recipe = worlds.recipe(
        queries=worlds.write_sources(tmp_path),
        candidates={"sources": [str(pairs)], "partition_rows": 5},
        balance={"cap": 4},
    )
    (tmp_path / "world.toml").write_text(dumps_toml(to_mapping(recipe)))
    curate(recipe, tmp_path / "local")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "world.toml"), str(tmp_path / "ray")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
