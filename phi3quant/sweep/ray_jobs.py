"""Jobs of a sweep on Ray, each on a worker with as many CPUs as it has threads.

Ray runs a job again if its worker or node dies; the job continues after its finished blocks.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from phi3quant.errors import ClusterError, MissingExtraError
from phi3quant.model.device import find_device
from phi3quant.notices import notify
from phi3quant.progress import silent
from phi3quant.run.shared_work import SharedWork
from phi3quant.sweep.cache import reused
from phi3quant.sweep.display import Display
from phi3quant.sweep.job_log import last_line
from phi3quant.sweep.nodes import Facts, Inquiry, compare, facts
from phi3quant.sweep.originals import original
from phi3quant.sweep.outcome import Outcome
from phi3quant.sweep.work import Task, run_job
from phi3quant.units import size

LOCAL = "local"
"""Address of a cluster on this machine, which is started for the sweep."""

# Deaths of workers that a job survives.
_RETRIES = 5
# Seconds between looks at the logs, and those that workers get to clean up after an interruption.
_LOOK, _CLEANING = 1.0, 20.0
# Locks of a dead machine expire within 90 seconds on NFS.
_PATIENCE = 180.0
_ENVIRONMENT = {
    # Ray reports its usage over the internet unless this is set.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Jobs without GPUs keep CUDA_VISIBLE_DEVICES as it is.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class RayRunner:
    """Runner of a sweep on Ray; a phi3quant.sweep.conduct.Runner.

    Attributes:
        address: address of a cluster, ``auto`` or ``local``.
        threads: threads of a job; None for all CPUs of the smallest node.
    """

    address: str
    threads: int | None = None

    def __call__(
        self, tasks: Sequence[Task], shared: SharedWork, display: Display
    ) -> Iterator[tuple[Task, Outcome]]:
        """Run tasks; yields each with its outcome when it is done.

        Raises:
            MissingExtraError: Ray isn't installed.
            ClusterError: the cluster can't be reached, or its nodes differ.
        """
        if not tasks:
            return
        with _connected(self.address) as ray:
            cluster = _Cluster(ray, self.threads)
            notify(cluster.check(tasks, shared))
            ready, refused = cluster.admitted(tasks)
            yield from refused
            yield from _run(ray, cluster, ready, display)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; a local one ends with the body.

    Raises:
        MissingExtraError: Ray isn't installed.
        ClusterError: the cluster can't be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("a sweep on Ray", "cluster") from None
    before = ray.is_initialized()
    if not before:
        try:
            ray.init(
                address=address,
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"Ray at {address} can't be reached: {error}") from None
    try:
        yield ray
    finally:
        if not before:
            ray.shutdown()


class _Cluster:
    """Nodes of a cluster, and the resources of a job."""

    def __init__(self, ray: Any, threads: int | None) -> None:
        self._ray = ray
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        cpus = [_cpus(node) for node in self._nodes if _cpus(node) >= 1]
        if not cpus:
            raise ClusterError("the cluster has no node with a CPU")
        self.threads = threads or int(min(cpus))
        self._workers = [node for node in self._nodes if _cpus(node) >= self.threads]
        if not self._workers:
            raise ClusterError(
                f"no node has {self.threads} CPUs; the largest has {max(cpus):g}. Use fewer threads"
            )

    def check(self, tasks: Sequence[Task], shared: SharedWork) -> list[str]:
        """Compare all nodes with this machine; see nodes.compare."""
        from ray.util.scheduling_strategies import (  # noqa: PLC0415 - an extra
            NodeAffinitySchedulingStrategy,
        )

        first = tasks[0]
        models = tuple(dict.fromkeys(task.job.subject.located for task in tasks))
        inquiry = Inquiry(
            str(Path.cwd()), first.folder.results.absolute(), models, first.limits.device
        )
        ask = self._ray.remote(num_cpus=0, max_retries=0)(_facts)
        asked = {
            f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": ask.options(
                num_gpus=_gpus(first),
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(inquiry)
            for node in self._workers
        }
        return compare(facts(inquiry, shared), {name: self._answer(a) for name, a in asked.items()})

    def _answer(self, asked: Any) -> Facts:
        try:
            answer: Facts = self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            return Facts({}, problem=_reason(error))
        return answer

    def admitted(self, tasks: Sequence[Task]) -> tuple[list[Task], list[tuple[Task, Outcome]]]:
        """Tasks that fit a node, and the others with the reason; Ray would wait for ever."""
        room = max(node["Resources"].get("memory", 0) for node in self._workers)
        ready, refused = [], []
        for task in tasks:
            if task.job.memory <= room:
                ready.append(replace(task, patience=_PATIENCE, folder=task.folder.absolute()))
            else:
                reason = (
                    f"this needs about {size(task.job.memory)} of memory, and the largest node of "
                    f"the cluster has {size(room)}"
                )
                refused.append((task, Outcome(task.job.key, "refused", reason)))
        return ready, refused

    def submit(self, task: Task, after: Any) -> Any:
        """Start a task when ``after`` is there; returns the reference to its outcome."""
        work = self._ray.remote(max_retries=_RETRIES)(_run_task).options(
            num_cpus=self.threads,
            num_gpus=_gpus(task),
            memory=task.job.memory,
            name=str(task.job),
        )
        return work.remote(task, str(Path.cwd()), self.threads, after)

    def submit_original(self, task: Task) -> Any:
        """Start the scoring of the original of a task's model."""
        work = self._ray.remote(max_retries=_RETRIES)(_keep_original).options(
            num_cpus=self.threads, num_gpus=_gpus(task), name=f"{task.job.subject.title}, original"
        )
        return work.remote(task, str(Path.cwd()), self.threads)


def _run(
    ray: Any, cluster: _Cluster, tasks: Sequence[Task], display: Display
) -> Iterator[tuple[Task, Outcome]]:
    originals = {task.job.subject.original: task for task in reversed(tasks)}
    kept = {key: cluster.submit_original(task) for key, task in originals.items()}
    pending = {cluster.submit(task, kept[task.job.subject.original]): task for task in tasks}
    try:
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK)
            for reference in done:
                task = pending.pop(reference)
                yield task, _outcome(ray, reference, task)
            display.watch(_running(pending.values()))
    except BaseException:
        _cancel(ray, [*kept.values(), *pending])
        raise
    finally:
        display.watch({})


def _outcome(ray: Any, reference: Any, task: Task) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(task.job.key, "failed", _reason(error))
    return outcome


def _running(tasks: Any) -> Mapping[str, str]:
    lines = {str(task.job): last_line(task.folder.log(task.job.key)) for task in tasks}
    return {name: line for name, line in lines.items() if line}


def _cancel(ray: Any, references: Sequence[Any]) -> None:
    """Interrupt all workers, so that they clean up; then end those that don't."""
    with suppress(Exception):
        for reference in references:
            ray.cancel(reference, force=False)
        _, still = ray.wait(list(references), num_returns=len(references), timeout=_CLEANING)
        for reference in still:
            ray.cancel(reference, force=True)


def _reason(error: Exception) -> str:
    """First line of an error of Ray, whose messages have pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _cpus(node: Mapping[str, Any]) -> float:
    return float(node["Resources"].get("CPU", 0))


def _gpus(task: Task) -> int:
    return 0 if find_device(task.limits.device).type == "cpu" else 1


# The functions below run on workers.


@cache
def _shared() -> SharedWork:
    """Work that the jobs of a worker share; Ray uses workers again."""
    return SharedWork()


def _facts(inquiry: Inquiry) -> Facts:
    return facts(inquiry, _shared())


def _keep_original(task: Task, folder: str, threads: int) -> str:
    """Score an original. An error is left to the jobs, which report it."""
    _prepare(folder, threads)
    subject = task.job.subject
    with suppress(Exception):
        opened = _shared().opened(subject.located)
        place = task.folder.original(subject.original)
        original(place, opened, task.text, silent, task.limits.device)
    return subject.original


def _run_task(task: Task, folder: str, threads: int, _after: str) -> Outcome:
    _prepare(folder, threads)
    # A worker may have died after it finished the artifact.
    there = reused(task.job, task.folder)
    return replace(there, reused=False) if there else run_job(task, _shared(), silent)


def _prepare(folder: str, threads: int) -> None:
    os.chdir(folder)
    torch.set_num_threads(threads)
