"""Conduct of a sweep: plan, reuse, run the rest, keep every result."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phi3quant.disk.output import write_json
from phi3quant.errors import ResumeError
from phi3quant.run.shared_work import SharedWork
from phi3quant.sweep.cache import reused
from phi3quant.sweep.display import Display, Silent
from phi3quant.sweep.folder import SweepFolder
from phi3quant.sweep.grid import Grid
from phi3quant.sweep.local import run_locally
from phi3quant.sweep.outcome import Outcome
from phi3quant.sweep.plan import Limits, Plan, make_plan
from phi3quant.sweep.require import Requirement
from phi3quant.sweep.results import Results
from phi3quant.sweep.store import Store
from phi3quant.sweep.work import Task
from phi3quant.units import count

Runner = Callable[[Sequence[Task], SharedWork, Display], Iterator[tuple[Task, Outcome]]]
"""Runs tasks and yields each with its outcome, in any order."""


@dataclass(frozen=True)
class Demands:
    """Demands on the results.

    Attributes:
        limits: sizes in bytes to find the best artifact for.
        requirements: requirements of the winners, or of all artifacts without limits.
    """

    limits: tuple[int, ...] = ()
    requirements: tuple[Requirement, ...] = ()


def sweep(
    grid: Grid,
    output: str | Path,
    limits: Limits,
    *,
    demands: Demands | None = None,
    resume: bool = False,
    runner: Runner = run_locally,
    display: Display | None = None,
    store: Store | None = None,
) -> Results:
    """Quantize and score every model of a grid with every recipe.

    Results that are in ``output`` already are used as they are. After each job the results are
    written, so that an interruption loses only the current block.

    Args:
        grid: models, recipes and the text to score on.
        output: folder of the sweep; sweeps may share one.
        limits: device and memory of a job.
        demands: demands on the results.
        resume: whether to continue jobs that were interrupted after their finished blocks.
        runner: runs the jobs.
        display: display of the progress; None for nothing.
        store: address with results, which are used as well; new ones are copied to it.

    Raises:
        Phi3QuantError: no job can start; errors of single jobs are in the results.
    """
    folder, shared, shown = SweepFolder(Path(output)), SharedWork(), display or Silent()
    wanted = demands or Demands()
    folder.check()
    if store is not None:
        store.check()
    plan = make_plan(grid, limits, shared)
    with folder.locked():
        if not resume:
            _refuse_to_forget(plan, folder)
        outcomes, before = _reused(plan, folder, store), folder.results.read_bytes()
        tasks = [
            Task(job, folder, plan.text, limits, store=store)
            for job in plan.jobs
            if job.key not in outcomes
        ]
        shown.planned([task.job for task in tasks], len(outcomes))

        def results() -> Results:
            return Results(plan, dict(outcomes), folder, wanted.limits, wanted.requirements)

        try:
            for task, outcome in runner(tasks, shared, shown):
                outcomes[task.job.key] = outcome
                shown.done(task.job, outcome)
                write_json(folder.results, results().lasting_json())
        except BaseException as error:
            error.add_note(
                f"{len(outcomes)} of {count(len(plan.jobs), 'result')} are kept in {output}; "
                "run the same command with --resume to continue"
            )
            raise
        if not tasks:
            write_json(folder.results, results().lasting_json())
        return replace(results(), news=folder.results.read_bytes() != before)


def _reused(plan: Plan, folder: SweepFolder, store: Store | None) -> dict[str, Outcome]:
    """Outcomes of earlier jobs, from the folder or the store, which then both have them."""
    found = {}
    for job in plan.jobs:
        if store is not None:
            store.fetch(folder, job.key)
        outcome = reused(job, folder)
        if outcome is None:
            continue
        found[job.key] = outcome
        if store is not None and not store.has(folder, job.key):
            store.keep(folder, job.key)
    return found


def _refuse_to_forget(plan: Plan, folder: SweepFolder) -> None:
    unfinished: Mapping[str, int] = {str(job): folder.finished_blocks(job.key) for job in plan.jobs}
    begun = {name: blocks for name, blocks in unfinished.items() if blocks}
    if begun:
        name, blocks = next(iter(begun.items()))
        more = f" and {count(len(begun) - 1, 'other job')}" if len(begun) > 1 else ""
        raise ResumeError(
            f"{folder.path} has an unfinished job ({name}, {count(blocks, 'block')} done){more}; "
            "pass --resume to continue"
        )
