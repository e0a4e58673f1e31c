"""What a run has finished, kept beside its output until that is whole, so that it can go on.

A folder ``.OUT.unfinished`` with ``begun.json``, which says what the run is made of, and a file
for each finished block. A block counts when its file has its name (see block_record), so that a
killed process, a full disk or a power failure costs the block at hand and nothing before it.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.block_record import BlockRecord, read_record, write_record
from phi3quant.checkpoint import read_json_if_there
from phi3quant.codecs import Codecs
from phi3quant.config import Phi3Config
from phi3quant.errors import CheckpointError, InputError, ResumeError
from phi3quant.hidden import Shelf
from phi3quant.output import clear_os_errors, locked, sync, write_json
from phi3quant.qblock import QuantizedBlock

_HEADER = "begun.json"
# Differences that a message lists before it only counts them.
_SHOWN = 4


@dataclass(frozen=True)
class Journal:
    """A run's finished blocks.

    Attributes:
        output: what the run is going to make.
        folder: where they are kept.
    """

    output: Path
    folder: Path

    @property
    def finished(self) -> int:
        """Blocks from the first on whose files are there."""
        count = 0
        while self._path(count).is_file():
            count += 1
        return count

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Forget what was kept, and say what is kept from now on.

        Args:
            identity: everything that could change a bit of the result, as JSON has it.

        Raises:
            OutputError: it can't be written.
        """
        with clear_os_errors(self.output):
            for path in self.folder.iterdir():
                path.unlink()
        write_json(self.folder / _HEADER, identity)
        sync(self.folder)
        sync(self.folder.parent)

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse to go on with what was begun otherwise.

        Raises:
            ResumeError: names what differs.
        """
        try:
            before = _flat(read_json_if_there(self.folder / _HEADER))
        except CheckpointError as error:
            raise ResumeError(f"{error}; {self._ways_out(begin='start anew')}") from None
        now = _flat(identity)
        changes = [
            f"{key} was {before.get(key, 'not there')} and is {now.get(key, 'not there')}"
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        ]
        if changes:
            more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
            raise ResumeError(
                f"can't go on with {self.output}, which was begun otherwise: "
                f"{'; '.join(changes[:_SHOWN])}{more}. Go back to what it was begun with, or "
                f"{self._ways_out(begin='start anew')}"
            )

    def refuse_to_forget(self) -> None:
        """Refuse to start anew over finished blocks.

        Raises:
            ResumeError: there are some.
        """
        if self.finished:
            raise ResumeError(
                f"an unfinished run for {self.output} is there, with {self.finished} blocks done: "
                f"pass --resume to go on with it, or {self._ways_out(begin='start anew')}"
            )

    def keep(self, index: int, block: QuantizedBlock, report: Mapping[str, Any]) -> None:
        """Keep a finished block.

        Raises:
            OutputError: it can't be written.
        """
        write_record(self._path(index), block, report)

    def take(self, index: int, config: Phi3Config, codecs: Codecs) -> BlockRecord | None:
        """A finished block; None if it is damaged, and then it and all later ones are dropped."""
        record = read_record(self._path(index), config, codecs)
        if record is None:
            for later in range(index, self.finished):
                self._path(later).unlink()
        return record

    def how_to_go_on(self) -> str:
        """What a person is told when a run ends early."""
        return (
            f"{self.finished} finished blocks are kept in {self.folder}: the same command with "
            f"--resume goes on after them. To drop them, {self._ways_out(begin='start anew')}"
        )

    def _path(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.safetensors"

    def _ways_out(self, begin: str) -> str:
        return f"pass --overwrite to {begin}, or delete {self.folder}"


@contextmanager
def open_journal(output: Path) -> Iterator[Journal]:
    """The journal of a run; no other process can have it meanwhile.

    It goes when the body succeeds, and when it fails before a block is finished or for what was
    given, which can only be mended by giving something else. Otherwise it stays, and the exception
    gets a note that says how to go on. What an earlier run kept stays in any case.

    Raises:
        ResumeError: another process is making ``output``.
        OutputError: the folder can't be made.
    """
    journal = Journal(output, output.parent / f".{output.name}.unfinished")
    made = [parent for parent in output.parents if not parent.exists()]
    with clear_os_errors(output):
        journal.folder.mkdir(parents=True, exist_ok=True)
        lock = locked(journal.folder)
    if lock is None:
        raise ResumeError(f"another process is making {output} at this moment; wait for it")
    before = journal.finished
    try:
        try:
            yield journal
        except BaseException as error:
            futile = isinstance(error, InputError) and not before
            if futile or not journal.finished:
                _remove(journal.folder, made)
            else:
                # Worth nothing after the run.
                Shelf(journal.folder).clear()
            if journal.finished and not isinstance(error, ResumeError):
                error.add_note(journal.how_to_go_on())
            raise
        shutil.rmtree(journal.folder, ignore_errors=True)
    finally:
        os.close(lock)


def _remove(folder: Path, parents: list[Path]) -> None:
    """Remove a journal, and the folders that were made for it."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in parents:
        if not any(parent.iterdir()):
            parent.rmdir()


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested JSON as one level of strings, under names such as ``recipe.bits``."""
    if not isinstance(value, Mapping):
        return {name: str(value)}
    found = {}
    for key, part in value.items():
        found.update(_flat(part, f"{name}.{key}" if name else str(key)))
    return found
