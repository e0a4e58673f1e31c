"""One spoiled file, read by one command in a forked process with limits."""

import os
import resource
import shutil
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from click.testing import CliRunner

from phi3quant.cli.main import main
from tests.fuzz.readers import Reader

CPU_SECONDS = 5
"""Processor time that a small file may cost."""
CPU_SECONDS_OF = {"sweep": 15}
"""Processor time of commands that quantize, score and write a page, whatever the file costs."""

MEMORY_BYTES = 500 << 20
"""Memory that a small file may cost."""

_ROOM = 2 << 30
_EXIT_CODES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Trial:
    """Outcome of a command on a spoiled file.

    Attributes:
        words: of the command.
        code: its exit code; negative for a signal.
        problem: a traceback, a limit, a missing message or something left behind; empty if all is
            well.
    """

    words: tuple[str, ...]
    code: int
    problem: str


def try_case(reader: Reader, base: Path, place: Path, seed: str) -> Trial:
    """Spoil a copy of a reader's files and run one of its commands.

    Args:
        reader: whose.
        base: from make_base.
        place: an empty folder to work in; what is left there shows the case.
        seed: decides everything.
    """
    random = Random(seed)  # noqa: S311 - mutations, not secrets
    shutil.rmtree(place, ignore_errors=True)
    work = place / "work"
    work.mkdir(parents=True)
    source, copy = base / reader.files, place / reader.files
    if source.is_dir():
        shutil.copytree(source, copy)
        spoiled = random.choice(sorted(copy.glob(reader.spoiled)))
    else:
        spoiled = Path(shutil.copy(source, copy))
    reader.spoil(random, spoiled)
    words = tuple(
        word.format(m=copy, base=base, work=work) for word in random.choice(reader.commands)
    )
    code, problem = _in_child(words, place)
    left = sorted(path.name for path in work.iterdir())
    if not problem and code == 2 and left:
        problem = f"left behind: {left}"
    return Trial(words, code, problem)


def _in_child(words: tuple[str, ...], place: Path) -> tuple[int, str]:
    report = place / "problem.txt"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            _limit()
            code = _run(words, report)
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    grown = usage.ru_maxrss * 1024 - _resident()
    seconds = usage.ru_utime + usage.ru_stime
    if report.exists():
        return code, report.read_text(encoding="utf-8", errors="replace")
    if code not in _EXIT_CODES:
        return code, f"ended by signal or with code {code} after {seconds:.1f} s"
    if seconds > CPU_SECONDS_OF.get(words[0], CPU_SECONDS):
        return code, f"took {seconds:.1f} s of processor time"
    if grown > MEMORY_BYTES:
        return code, f"took {grown >> 20} MiB more than before"
    return code, ""


def _limit() -> None:
    torch.set_num_threads(1)
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + 4 * CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (end, end))
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    room = size * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _run(words: tuple[str, ...], report: Path) -> int:
    result = CliRunner().invoke(main, [*words])
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        report.write_text("".join(traceback.format_exception(error)), errors="backslashreplace")
    elif result.exit_code == 2 and not result.output.strip():
        report.write_text("exit code 2 without a message")
    return result.exit_code


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
