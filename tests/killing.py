"""Runs of phi3quant that are killed at many moments and taken up again; run as a program.

Children are forked off a process that has done the whole on one thread, so that all is imported and
compiled and a run takes a fraction of a second.

Prints JSON: for each moment, the finished blocks that were left and the
hashes of the files that came out in the end.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from phi3quant.cli.main import main


def run(words: list[str]) -> int:
    """The exit code of a command, in this process."""
    return CliRunner().invoke(main, words).exit_code


def in_child(work: Callable[[], int], after: float | None = None) -> int:
    """Exit status of a forked child that does ``work`` and is killed -9 after some seconds."""
    child = os.fork()
    if child == 0:
        os._exit(work())
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(words: list[str], count: int) -> Callable[[], int]:
    """A run that kills itself when it is about to wait for the disk for the ``count``-th time."""

    def work() -> int:
        left, wait = [count], os.fsync

        def fsync(descriptor: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            wait(descriptor)

        os.fsync = fsync  # type: ignore[assignment]
        return run(words)

    return work


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def trial(words: list[str], out: Path, kill: Callable[[list[str]], int]) -> dict[str, object]:
    """A run that is killed and then resumed."""
    line = [*words, "-o", str(out)]
    kill(line)
    left = len(list(out.parent.glob(f".{out.name}.unfinished/block-*.safetensors")))
    # A run that was killed in its very last step has made all of it.
    if not out.exists():
        assert in_child(lambda: run([*line, "--resume"])) == 0
        assert [path.name for path in out.parent.iterdir()] == [out.name]
    return {"left": left, "files": hashes(out)}


def main_program(folder: Path, moments: int, words: list[str]) -> None:
    """Kill runs at random moments and at random waits for the disk."""
    choice = random.Random(5)  # noqa: S311 - moments, not secrets
    place = folder / "whole" / "out"
    assert run([*words, "-o", str(place)]) == 0
    started = time.monotonic()
    assert in_child(lambda: run([*words, "-o", str(place), "--overwrite"])) == 0
    seconds = time.monotonic() - started
    whole = hashes(place)
    found = []
    for number in range(moments):
        if number % 2:
            # Three for the beginning, two for each block, then those of the finished output.
            count = choice.randrange(3, 13)
            kill = lambda line, count=count: in_child(dying_at(line, count))  # noqa: E731
        else:
            after = choice.uniform(0.1, 1.0) * seconds
            kill = lambda line, after=after: in_child(lambda: run(line), after)  # noqa: E731
        found.append(trial(words, folder / str(number) / "out", kill))
    json.dump({"whole": whole, "trials": found}, sys.stdout)


if __name__ == "__main__":
    main_program(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
