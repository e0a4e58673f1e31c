"""Progress and results of a sweep in the terminal."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from phi3quant.cli.layout import print_table, print_text
from phi3quant.cli.live_table import LiveTable
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.terminal import echo, note, progress_width, width
from phi3quant.progress import Progress, Step
from phi3quant.reporting import wording
from phi3quant.sweep.job import Job
from phi3quant.sweep.outcome import Outcome
from phi3quant.sweep.results import Results
from phi3quant.sweep.tables import artifact_table, duration, missing_table, summary
from phi3quant.units import count, size

# Columns of tables in files and pipes; the table of a sweep is wide.
_WIDTH = 160
# Between looks at jobs that run elsewhere.
_SECONDS = 30


class SweepDisplay:
    """Lines for each job, and bars for the stages of the current one; implements Display."""

    def __init__(self) -> None:
        self._jobs = 0
        self._ended = 0
        self._begun = 0
        self._watched = time.monotonic()
        self._table = LiveTable("job", "stage")
        self._started = time.monotonic()

    def planned(self, jobs: Sequence[Job], reused: int) -> None:
        """See Display."""
        self._jobs, self._started = len(jobs), time.monotonic()
        there = f", {count(reused, 'result')} from earlier" if reused else ""
        note(f"{count(len(jobs), 'job')} to run{there}")

    @contextmanager
    def job(self, job: Job) -> Iterator[Progress]:
        """See Display."""
        self._begun += 1
        place = f"[{self._begun}/{self._jobs}]"
        note(f"{place} {job}")
        bars = progress_bars(quiet=False)

        def placed(title: str, total: int) -> AbstractContextManager[Step]:
            return bars(f"{place} {title}", total)

        yield placed

    def watch(self, running: Mapping[str, str]) -> None:
        """See Display; a table that is updated or, in a log, lines from time to time."""
        if progress_width():
            self._table.show(running)
            return
        now = time.monotonic()
        if running and now - self._watched >= _SECONDS:
            self._watched = now
            for name, line in running.items():
                note(f"  {name}: {line}")

    def done(self, job: Job, outcome: Outcome) -> None:
        """See Display."""
        self._ended += 1
        line = f"[{self._ended}/{self._jobs}] {job}: {_figures(outcome)}"
        left = self._jobs - self._ended
        if left:
            pace = (time.monotonic() - self._started) / self._ended
            line += f" (about {duration(left * pace)} left)"
        note(line)


def print_results(results: Results) -> None:
    """Print a table for each model, the jobs without a result, and the best artifacts."""
    room = width(_WIDTH)
    tables = [artifact_table(model) for model in results.models]
    for table in filter(None, (*tables, missing_table(results))):
        echo(table.title)
        if table.rows:
            print_table(table.headings, table.rows, words=table.words, width=room)
            print_text(table.note, width=room)
        echo()
    for line in summary(results):
        print_text(line, width=room)


def _figures(outcome: Outcome) -> str:
    if not outcome.done:
        return f"{outcome.status}: {outcome.reason}"
    parts = []
    for each in outcome.artifacts:
        kl, increase = wording.short(each.figures.kl_mean), each.increase
        change = wording.UNKNOWN if increase is None else wording.change(1 + increase)
        parts.append(f"{size(each.nbytes)}, perplexity {change}, mean KL {kl}")
    taken = "" if outcome.seconds is None else f" in {duration(outcome.seconds)}"
    return f"{'; '.join(parts)}{taken}"
