"""Jobs of a sweep on Ray, each on a worker with as many CPUs as it has threads.

Ray runs a job again if its worker or node dies; the job continues after its finished blocks.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from phi3quant.cluster.connection import connected, reason, threads_and_nodes
from phi3quant.cluster.nodes import Inquiry, compared, shared_work
from phi3quant.model.device import find_device
from phi3quant.notices import notify
from phi3quant.progress import silent
from phi3quant.run.shared_work import SharedWork
from phi3quant.sweep.cache import reused
from phi3quant.sweep.display import Display
from phi3quant.sweep.job_log import last_line
from phi3quant.sweep.outcome import Outcome
from phi3quant.sweep.work import Task, kept_original, run_job
from phi3quant.units import size

# Deaths of workers that a job survives.
_RETRIES = 5
# Seconds between looks at the logs, and those that workers get to clean up after an interruption.
_LOOK, _CLEANING = 1.0, 20.0
# Locks of a dead machine expire within 90 seconds on NFS.
_PATIENCE = 180.0


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
        with connected(self.address, "a sweep on Ray") as ray:
            cluster = _Cluster(ray, self.threads)
            notify(cluster.check(tasks, shared))
            ready, refused = cluster.admitted(tasks)
            yield from refused
            yield from _run(ray, cluster, ready, display)


class _Cluster:
    """Nodes of a cluster, and the resources of a job."""

    def __init__(self, ray: Any, threads: int | None) -> None:
        self._ray = ray
        self.threads, self._workers = threads_and_nodes(ray, threads)

    def check(self, tasks: Sequence[Task], shared: SharedWork) -> list[str]:
        """Compare all nodes with this machine; see nodes.compare."""
        first = tasks[0]
        models = tuple(dict.fromkeys(task.job.subject.located for task in tasks))
        # With a store, every node has a folder of its own.
        seen = None if first.store else first.folder.results.absolute()
        inquiry = Inquiry(str(Path.cwd()), seen, models, first.limits.device)
        return compared(self._ray, self._workers, inquiry, shared, gpus=_gpus(first))

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
        return Outcome(task.job.key, "failed", reason(error))
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


def _gpus(task: Task) -> int:
    return 0 if find_device(task.limits.device).type == "cpu" else 1


# The functions below run on workers.


def _keep_original(task: Task, folder: str, threads: int) -> str:
    """Score an original. An error is left to the jobs, which report it."""
    _prepare(task, folder, threads)
    subject = task.job.subject
    with suppress(Exception):
        kept_original(task, shared_work().opened(subject.located), silent)
    return subject.original


def _run_task(task: Task, folder: str, threads: int, _after: str) -> Outcome:
    _prepare(task, folder, threads)
    # A worker may have died after it finished the artifact.
    there = reused(task.job, task.folder)
    return replace(there, reused=False) if there else run_job(task, shared_work(), silent)


def _prepare(task: Task, folder: str, threads: int) -> None:
    os.chdir(folder)
    torch.set_num_threads(threads)
    if task.store is not None:
        task.folder.make()
        task.store.fetch(task.folder, task.job.key)
