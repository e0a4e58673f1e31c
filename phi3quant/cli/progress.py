"""Progress on stderr: bars in a terminal, lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from phi3quant.cli import terminal
from phi3quant.progress import Progress, Step, silent
from phi3quant.visible import one_line

# Between the lines of a log: often enough to show that a job in CI is alive.
_SECONDS = 60


def progress_bars(*, quiet: bool) -> Progress:
    """Progress of each stage and its remaining time."""
    if quiet:
        return silent
    return _bar if terminal.progress_width() else _lines


@contextmanager
def _bar(title: str, total: int) -> Iterator[Step]:
    with tqdm(
        total=total, desc=one_line(title), file=sys.stderr, unit="step", dynamic_ncols=True
    ) as bar:

        def step(done: int = 1, note: str = "") -> None:
            if note:
                bar.set_postfix_str(one_line(note), refresh=False)
            bar.update(done)

        yield step


@contextmanager
def _lines(title: str, total: int) -> Iterator[Step]:
    begun = printed = time.monotonic()
    finished = 0

    def step(done: int = 1, note: str = "") -> None:
        nonlocal printed, finished
        finished += done
        now = time.monotonic()
        # A stage that ends soon prints no line at all.
        if now - printed >= _SECONDS:
            printed = now
            form = "{desc}: {n_fmt} of {total_fmt} in {elapsed}, {remaining} left"
            line = tqdm.format_meter(finished, total, now - begun, prefix=title, bar_format=form)
            terminal.note(", ".join(filter(None, (line, note))))

    yield step
