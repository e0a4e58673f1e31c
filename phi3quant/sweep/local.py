"""Jobs of a sweep in this process, one after the other, each with all cores."""

from collections.abc import Iterator, Sequence

from phi3quant.run.shared_work import SharedWork
from phi3quant.sweep.display import Display
from phi3quant.sweep.outcome import Outcome
from phi3quant.sweep.work import Task, run_job


def run_locally(
    tasks: Sequence[Task], shared: SharedWork, display: Display
) -> Iterator[tuple[Task, Outcome]]:
    """Run tasks; yields each with its outcome when it is done."""
    for task in tasks:
        with display.job(task.job) as progress:
            outcome = run_job(task, shared, progress)
        yield task, outcome
