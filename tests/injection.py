"""Kill a run, or fail it, at its n-th change of a file; then take it up again. Run as a program.

    python -m tests.injection --points 100        awq with each export; some minutes

In every other round of faults an older artifact stands at the output, and ``--overwrite`` is given.

Changes are counted where Python announces them (its audit events: files opened for writing,
renamed, linked, deleted; folders made and deleted), and at every wait for the disk. Children are
forked off a process that has done the whole once, so that a run takes a fraction of a second.

After each fault, an output that exists must pass ``phi3quant verify``, and the same command with
``--resume`` must end in the bytes of an undisturbed run and leave nothing else.
"""

import errno
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click
import torch
from click.testing import CliRunner

from phi3quant.cli.main import main
from tests.killing import hashes, in_child

EXPORTS = ("compressed-tensors", "awq-gemm", "gguf", "onnx", "compressed-tensors,gguf,onnx")
_QUICK = (
    *("--samples", "3", "--seq-len", "64", "--threads", "1"),
    *("--max-tokens", "256", "--window", "64", "-q"),
)

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_BROKEN = 100


@dataclass(frozen=True)
class Fault:
    """Something that happens in the place of a change.

    Attributes:
        strike: what.
        lasting: at every later change too.
    """

    strike: Callable[[], None]
    lasting: bool = False


def kill() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def _failing(number: int, *, lasting: bool = False) -> Fault:
    """The system refuses, with an errno."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return Fault(fail, lasting)


FAULTS: Mapping[str, Fault] = {
    "kill -9": Fault(kill),
    **{name: _failing(getattr(errno, name)) for name in ("ENOSPC", "EIO", "EDQUOT")},
    "ENOSPC from then on": _failing(errno.ENOSPC, lasting=True),
    "EROFS from then on": _failing(errno.EROFS, lasting=True),
}
"""Faults by name."""


@dataclass(frozen=True)
class Ended:
    """The end of a command.

    Attributes:
        code: its exit code; negative for a signal, _BROKEN for an exception.
        text: its output, or the exception.
        changes: how many changes of files it made.
    """

    code: int
    text: str
    changes: int


def command(words: Sequence[str], folder: Path, at: int = 0, fault: Fault | None = None) -> Ended:
    """Run a command in a forked process.

    Args:
        words: of the command.
        folder: where changes count.
        at: the number of the change at which the fault strikes; 0: none does.
        fault: what happens there.
    """
    notes = folder.parent / "notes.json"
    notes.unlink(missing_ok=True)

    def work() -> int:
        count = _strike(folder, at, fault)
        result = CliRunner().invoke(main, list(words))
        broken = result.exception is not None and not isinstance(result.exception, SystemExit)
        text = repr(result.exception) if broken else result.output
        notes.write_text(json.dumps([text, count[0]]))
        return _BROKEN if broken else result.exit_code

    code = in_child(work)
    text, changes = json.loads(notes.read_text()) if notes.exists() else ("", 0)
    return Ended(code, text, changes)


def _strike(folder: Path, at: int, fault: Fault | None) -> list[int]:
    """Have a fault strike in this process; gives a list whose only element counts the changes."""
    count, place = [0], str(folder)

    def change(path: object) -> None:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(place):
            count[0] += 1
            if fault is not None and (count[0] == at or (fault.lasting and count[0] > at)):
                fault.strike()

    def hear(event: str, given: tuple[object, ...]) -> None:
        if event == "open" and isinstance(given[2], int) and given[2] & _WRITING:
            change(given[0])
        elif event in ("os.rename", "os.link"):
            change(given[1])
        elif event in _CHANGES:
            change(given[0])

    wait = os.fsync

    def fsync(descriptor: int) -> None:
        change(Path(f"/proc/self/fd/{descriptor}").readlink())
        wait(descriptor)

    sys.addaudithook(hear)
    os.fsync = fsync  # type: ignore[assignment]
    return count


def problems(
    words: Sequence[str], work: Path, points: int, faults: Mapping[str, Fault], seed: int = 0
) -> Iterator[str]:
    """Everything that goes wrong when faults strike at random changes of a command.

    Args:
        words: of a command, without ``-o``.
        work: an empty folder.
        points: how often.
        faults: taken in turns.
        seed: of the choice of changes.
    """
    random = Random(seed)  # noqa: S311 - moments, not secrets
    folder = work / "place"
    line = [*words, "-o", str(folder / "out")]
    folder.mkdir()
    whole = command(line, folder)
    if whole.code or not whole.changes:
        yield f"an undisturbed run ends with {whole}"
        return
    expected, kept = hashes(folder / "out"), work / "kept"
    (folder / "out").rename(kept)
    for number in range(points):
        shutil.rmtree(folder)
        folder.mkdir()
        words = line
        if number // len(faults) % 2:
            shutil.copytree(kept, folder / "out")
            words = [*line, "--overwrite"]
        name = list(faults)[number % len(faults)]
        at = random.randint(1, whole.changes)
        ended = command(words, folder, at, faults[name])
        where = f"{name} at change {at} of {whole.changes}"
        if ended.code not in (0, 2, -signal.SIGKILL):
            yield f"{where}: ended with {ended}"
        yield from (f"{where}: {found}" for found in _afterwards(words, folder, expected))


def _afterwards(line: Sequence[str], folder: Path, expected: Mapping[str, str]) -> Iterator[str]:
    out = folder / "out"
    replaced = "--overwrite" in line
    if replaced and not out.exists() and not (folder / ".out.unfinished" / "old").exists():
        yield "what stood there is lost"
    if out.exists():
        verified = command(["verify", str(out)], folder)
        if verified.code:
            yield f"the output is there and broken: {verified.text}"
        elif hashes(out) != expected:
            yield "the output is there with other bytes"
    if replaced or not out.exists():
        again = command([*line, "--resume"], folder)
        if again.code:
            yield f"can't be resumed: {again}"
        elif hashes(out) != expected:
            yield "resumed to other bytes"
        elif [path.name for path in folder.iterdir()] != ["out"]:
            yield f"left {[path.name for path in folder.iterdir()]}"


@click.command()
@click.option("--points", type=click.IntRange(1), default=100, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--export", "exports", multiple=True, default=EXPORTS, help="Formats; repeatable.")
def inject(points: int, seed: int, exports: Sequence[str]) -> None:
    """Kill and fail awq at random changes, with each export; exit code 1 if anything is lost."""
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        for export in exports:
            words = ["awq", *_QUICK, "--export", export]
            words += ["--asym"] if export == "awq-gemm" else []
            # Once in this process, so that children compile and import nothing.
            CliRunner().invoke(main, [*words, "-o", f"{work}/warm-{export}"])
            place = Path(work) / f"faults-{export}"
            place.mkdir()
            found = list(problems(words, place, points, FAULTS, seed))
            failed += len(found)
            click.echo("\n".join([f"{export}: {points} faults, {len(found)} problems", *found]))
    sys.exit(bool(failed))


if __name__ == "__main__":
    inject()
