"""Nodes of a cluster: what each is asked before work starts, and the comparison of the answers."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from phi3quant.cluster.connection import node_name, on_node, reason
from phi3quant.disk.hashed_file import sha256
from phi3quant.errors import ClusterError, Phi3QuantError
from phi3quant.model.device import device_name, find_device
from phi3quant.model.precision import product_dtype
from phi3quant.provenance import manifest
from phi3quant.run.shared_work import SharedWork
from phi3quant.source.locate import Located

# Differences that a message lists.
_SHOWN = 4


@dataclass(frozen=True)
class Inquiry:
    """Files and settings that a node must have.

    Attributes:
        folder: working folder, for relative paths.
        results: file that all nodes must see, such as one in the folder of a sweep; None if they
            don't share the output.
        models: models to hash.
        device: device to compute on.
    """

    folder: str
    results: Path | None
    models: tuple[Located, ...]
    device: str


@dataclass(frozen=True)
class Facts:
    """Answer of a node.

    Attributes:
        required: versions, device and hashes, which must agree.
        cpu: kind of CPU, on which the last bits of results depend.
        problem: error; empty if there was none.
    """

    required: Mapping[str, str]
    cpu: str = ""
    problem: str = ""


def facts(inquiry: Inquiry, shared: SharedWork) -> Facts:
    """Facts of this machine."""
    try:
        os.chdir(inquiry.folder)
        device = find_device(inquiry.device)
        required = {
            **manifest.describe_tools(),
            "device": "cpu" if device.type == "cpu" else device_name(device),
        }
        if inquiry.results is not None:
            required["results"] = sha256(inquiry.results)
        for located in inquiry.models:
            opened = shared.opened(located)
            files = manifest.source_files(located, opened.model.store.files)
            required |= _flat(located.title, shared.described(located, files))
        capability = torch.backends.cpu.get_cpu_capability()
        cpu = f"{platform.machine()} {capability}, products in {product_dtype(device)}"
    except (Phi3QuantError, OSError) as error:
        return Facts({}, problem=str(error))
    return Facts(required, cpu)


def compared(
    ray: Any,
    nodes: Sequence[Mapping[str, Any]],
    inquiry: Inquiry,
    shared: SharedWork,
    gpus: int = 0,
) -> list[str]:
    """Ask nodes of a cluster, and compare them with this machine; see compare.

    Args:
        ray: the module.
        nodes: nodes to ask.
        inquiry: files and settings.
        shared: work of this process, with hashes of the models.
        gpus: GPUs that a node needs to answer.
    """
    ask = ray.remote(num_cpus=0, max_retries=0)(_facts_there)
    asked = {
        node_name(node): ask.options(num_gpus=gpus, scheduling_strategy=on_node(node)).remote(
            inquiry
        )
        for node in nodes
    }
    here = facts(inquiry, shared)
    return compare(here, {name: _answer(ray, answer) for name, answer in asked.items()})


def _answer(ray: Any, asked: Any) -> Facts:
    try:
        answer: Facts = ray.get(asked)
    except ray.exceptions.RayError as error:
        return Facts({}, problem=reason(error))
    return answer


@cache
def shared_work() -> SharedWork:
    """Work that the tasks of a worker share; Ray uses workers again."""
    return SharedWork()


def _facts_there(inquiry: Inquiry) -> Facts:
    return facts(inquiry, shared_work())


def compare(here: Facts, nodes: Mapping[str, Facts]) -> list[str]:
    """Compare the nodes with the machine that starts the work.

    Returns:
        Notes on differences that change at most the last bits of results.

    Raises:
        ClusterError: a node lacks a file, or has other versions or files.
    """
    for name, there in nodes.items():
        if there.problem:
            raise ClusterError(
                f"node {name} can't do the work: {there.problem}. All nodes need the same paths "
                "to the models, and in a sweep to the texts and the output"
            )
        keys = {**here.required, **there.required}
        differing = [key for key in keys if here.required.get(key) != there.required.get(key)]
        if differing:
            listed = [_difference(key, here, there) for key in differing[:_SHOWN]]
            more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            raise ClusterError(
                f"node {name} differs from this machine in {'; '.join(listed)}{more}. Install the "
                "same versions, and use one folder that all nodes see"
            )
    kinds = {here.cpu, *(there.cpu for there in nodes.values())}
    if len(kinds) == 1:
        return []
    note = (
        f"the nodes have CPUs of several kinds ({'; '.join(sorted(kinds))}); the last bits of "
        "results, and a few codes with them, depend on the kind"
    )
    return [note]


def _difference(key: str, here: Facts, there: Facts) -> str:
    return f"{key} ({there.required.get(key, 'none')}, here {here.required.get(key, 'none')})"


def _flat(title: str, described: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of a model's files and adapters, by their names."""
    hashes = {f"{title}: {name}": digest for name, digest in described["sha256"].items()}
    adapters: Sequence[Mapping[str, Any]] = described.get("adapters", [])
    for adapter in adapters:
        hashes |= {
            f"{title}: {adapter['name']}: {name}": digest
            for name, digest in adapter["sha256"].items()
        }
    return hashes
