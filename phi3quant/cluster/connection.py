"""Connection to a Ray cluster, and the facts about it that work is placed by."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from phi3quant.errors import ClusterError, MissingExtraError

LOCAL = "local"
"""Address of a cluster on this machine, which is started for the command."""

_ENVIRONMENT = {
    # Ray reports its usage over the internet unless this is set.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Work without GPUs keeps CUDA_VISIBLE_DEVICES as it is.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connected(address: str, purpose: str) -> Iterator[Any]:
    """Ray, connected to a cluster; a local one ends with the body.

    Args:
        address: address of a cluster, ``auto`` or ``local``.
        purpose: what needs Ray, for a message.

    Raises:
        MissingExtraError: Ray isn't installed.
        ClusterError: the cluster can't be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(purpose, "cluster") from None
    before = ray.is_initialized()
    if not before:
        try:
            ray.init(
                address=address,
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        # Ray raises a bare Exception if a node takes long to start.
        except Exception as error:  # noqa: BLE001
            raise ClusterError(f"Ray at {address} can't be reached: {error}") from None
    try:
        yield ray
    finally:
        if not before:
            ray.shutdown()


def cpus(node: Mapping[str, Any]) -> float:
    """CPUs of a node."""
    return float(node["Resources"].get("CPU", 0))


def node_name(node: Mapping[str, Any]) -> str:
    """Name of a node for messages, which is unique in its cluster."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def on_node(node: Mapping[str, Any]) -> Any:
    """Strategy of Ray that places work on a node, or nowhere."""
    from ray.util.scheduling_strategies import (  # noqa: PLC0415 - an extra
        NodeAffinitySchedulingStrategy,
    )

    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def threads_and_nodes(ray: Any, threads: int | None) -> tuple[int, list[Mapping[str, Any]]]:
    """Threads of a worker, and the nodes with as many CPUs.

    Args:
        ray: the module.
        threads: number of threads; None for all CPUs of the smallest node.

    Raises:
        ClusterError: no node has as many CPUs.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sizes = [cpus(node) for node in nodes if cpus(node) >= 1]
    if not sizes:
        raise ClusterError("the cluster has no node with a CPU")
    number = threads or int(min(sizes))
    fitting = [node for node in nodes if cpus(node) >= number]
    if not fitting:
        raise ClusterError(
            f"no node has {number} CPUs; the largest has {max(sizes):g}. Use fewer threads"
        )
    return number, fitting


def reason(error: Exception) -> str:
    """First line of an error of Ray, whose messages have pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
