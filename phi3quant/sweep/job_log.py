"""Log of a job in a file of its own."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phi3quant.notices import LOGGER
from phi3quant.progress import Progress, Step
from phi3quant.visible import in_log

# Between lines of a stage: often enough to follow a job that runs elsewhere.
_SECONDS = 5
# Bytes in which the last line is looked for.
_TAIL = 4096
_TIME = "2026-01-01 00:00:00 "


@dataclass(frozen=True)
class JobLog:
    """Open log of a job.

    Attributes:
        say: writes a line.
    """

    say: Callable[[str], None]

    def progress(self, shown: Progress) -> Progress:
        """Progress that is shown, and whose stages are logged."""

        @contextmanager
        def stage(title: str, total: int) -> Iterator[Step]:
            started = written = time.monotonic()
            finished = 0

            def logged(done: int = 1, note: str = "") -> None:
                nonlocal written, finished
                finished += done
                step(done, note)
                now = time.monotonic()
                if now - written >= _SECONDS:
                    written = now
                    self.say(f"{title}: {finished} of {total}")

            with shown(title, total) as step:
                yield logged
            self.say(f"{title}: {total} steps in {time.monotonic() - started:.1f} s")

        return stage


def last_line(path: Path) -> str:
    """Last line of a log without its time; empty if there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read(_TAIL).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1][len(_TIME) :].strip() if lines else ""


@contextmanager
def job_log(path: Path) -> Iterator[JobLog]:
    """Append to a log; notices of the library go there too.

    Raises:
        OSError: the file can't be written.
    """
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:

        def say(line: str) -> None:
            now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            file.write(f"{now} {in_log(line)}\n")
            file.flush()

        handler = logging.Handler()
        handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
        LOGGER.addHandler(handler)
        try:
            yield JobLog(say)
        finally:
            LOGGER.removeHandler(handler)
