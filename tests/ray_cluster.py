"""Clusters of Ray on this machine, with nodes that can be removed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MEMORY = 8 << 30


@contextmanager
def cluster_of_nodes(
    monkeypatch: pytest.MonkeyPatch, memory: int = MEMORY
) -> Iterator[Callable[[int], Any]]:
    """A function that starts a cluster of nodes with a CPU each, next to a head without any."""
    import ray
    from ray.cluster_utils import Cluster

    def node(cpus: int) -> dict[str, Any]:
        return {"num_cpus": cpus, "memory": memory, "object_store_memory": 80 << 20}

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = Cluster(initialize_head=True, head_node_args=node(0))

    def start(nodes: int) -> Any:
        for _ in range(nodes):
            started.add_node(**node(1))
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        return started

    try:
        yield start
    finally:
        ray.shutdown()
        started.shutdown()


def node_of(cluster: Any, process: int) -> Any:
    """Node of a cluster on which a worker process runs."""
    above = set(_parents(process))
    return next(
        node
        for node in cluster.worker_nodes
        if node.all_processes["raylet"][0].process.pid in above
    )


def _parents(process: int) -> Iterator[int]:
    """A process and those above it."""
    while process > 1:
        yield process
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        process = int(status.rpartition(")")[2].split()[1])
