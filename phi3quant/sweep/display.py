"""Display of a sweep's progress, as the command line and Python users implement it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from phi3quant.progress import Progress, silent
from phi3quant.sweep.job import Job
from phi3quant.sweep.outcome import Outcome


class Display(Protocol):
    """Display of jobs as they start and end."""

    def planned(self, jobs: Sequence[Job], reused: int) -> None:
        """The sweep begins; ``reused`` results are there, ``jobs`` are to run."""

    def job(self, job: Job) -> AbstractContextManager[Progress]:
        """A job runs in the body; returns the display of its stages."""

    def watch(self, running: Mapping[str, str]) -> None:
        """Jobs run elsewhere; ``running`` has the last line of the log of each.

        The last call has none.
        """

    def done(self, job: Job, outcome: Outcome) -> None:
        """A job has ended."""


class Silent:
    """Display of nothing; implements Display."""

    def planned(self, jobs: Sequence[Job], reused: int) -> None:
        """See Display."""

    def job(self, job: Job) -> AbstractContextManager[Progress]:
        """See Display."""
        del job
        return nullcontext(silent)

    def watch(self, running: Mapping[str, str]) -> None:
        """See Display."""

    def done(self, job: Job, outcome: Outcome) -> None:
        """See Display."""
