"""Finished blocks of a run, kept in its workspace until the output is whole, so that it can resume.

A block counts once its file has its name (see block_record), so that a killed process, a full disk
or a power failure costs the block at hand and nothing before it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.disk.output import clear_os_errors, sync, write_json
from phi3quant.disk.untrusted_json import read_json
from phi3quant.disk.workspace import BEGUN, Workspace, open_workspace
from phi3quant.errors import DamagedError, InputError, ResumeError
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.run.block_record import BlockRecord, read_record, write_record

# Differences that a message lists before it only counts them.
_SHOWN = 4


@dataclass(frozen=True)
class Journal:
    """A run's finished blocks.

    Attributes:
        output: the folder that the run is going to make.
        folder: of its workspace.
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

    @property
    def counted(self) -> str:
        """The finished blocks in words, such as ``3 finished blocks``."""
        return _blocks(self.finished, "finished ")

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Drop all finished blocks, and record what those to come depend on.

        Args:
            identity: everything that could change a bit of the result, as JSON has it.

        Raises:
            OutputError: it can't be written.
        """
        self.forget()
        write_json(self.folder / BEGUN, identity)
        sync(self.folder)
        sync(self.folder.parent)

    def forget(self) -> None:
        """Drop all finished blocks.

        Raises:
            OutputError: the system refuses.
        """
        with clear_os_errors(self.output):
            for path in sorted(self.folder.glob("block-*.safetensors")):
                path.unlink()

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse to resume a run that was started with different settings.

        Raises:
            ResumeError: names what differs.
        """
        try:
            before = _flat(read_json(self.folder / BEGUN))
        except InputError as error:
            raise ResumeError(f"{error}; {self._start_anew()}") from None
        now = _flat(identity)
        changes = [
            f"{key} was {before.get(key, 'not there')} and is {now.get(key, 'not there')}"
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        ]
        if changes:
            more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
            raise ResumeError(
                f"can't resume {self.output}, which was started with different settings: "
                f"{'; '.join(changes[:_SHOWN])}{more}. Go back to those, or {self._start_anew()}"
            )

    def refuse_to_forget(self) -> None:
        """Refuse to start anew over finished blocks.

        Raises:
            ResumeError: there are some.
        """
        if self.finished:
            raise ResumeError(
                f"an unfinished run for {self.output} is there, with {_blocks(self.finished)} "
                f"done: pass --resume to its command to go on with it, or {self._start_anew()}"
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

    def how_to_resume(self) -> str:
        """A note for whoever sees a run end early."""
        return (
            f"{self.counted} {_are(self.finished)} kept in {self.folder}: "
            f"the same command with --resume goes on from there. To drop them, {self._start_anew()}"
        )

    def _path(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.safetensors"

    def _start_anew(self) -> str:
        return f"pass --overwrite to start anew, or delete {self.folder}"


@contextmanager
def open_journal(output: Path, *, overwrite: bool = False) -> Iterator[tuple[Workspace, Journal]]:
    """The workspace of a calibrated run with its finished blocks.

    If the body ends early and blocks are finished, they stay, and the exception gets a note that
    says how to resume. Blocks of damaged weights are worth nothing, unless they are of an earlier
    run.

    Raises:
        OutputError: as open_workspace.
        ResumeError: another process is making ``output``.
    """
    with open_workspace(output, overwrite=overwrite) as workspace:
        journal = Journal(output, workspace.folder)
        before = journal.finished
        try:
            with clear_os_errors(output):
                yield workspace, journal
        except BaseException as error:
            if isinstance(error, DamagedError) and not before:
                journal.forget()
            if (
                workspace.folder.exists()
                and journal.finished
                and not isinstance(error, ResumeError)
            ):
                error.add_note(journal.how_to_resume())
            raise


def _blocks(count: int, kind: str = "") -> str:
    return f"{count} {kind}block{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested JSON as one level of strings, under names such as ``recipe.bits``."""
    if not isinstance(value, Mapping):
        return {name: str(value)}
    found = {}
    for key, part in value.items():
        found.update(_flat(part, f"{name}.{key}" if name else str(key)))
    return found
