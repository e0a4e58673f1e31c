"""Journal of finished blocks, kept in a run's workspace so that the run can resume.

A block counts as finished once its file has its final name (see block_record). A killed process, a
full disk or a power failure loses only the current block.
"""

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phi3quant.disk.output import clear_os_errors, sync, write_json
from phi3quant.disk.untrusted_json import read_json
from phi3quant.disk.workspace import BEGUN, TUNING, Workspace, open_workspace
from phi3quant.errors import DamagedError, InputError, ResumeError
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU, device_name
from phi3quant.model.precision import product_dtype
from phi3quant.provenance import manifest
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.run.block_record import BlockRecord, read_record, write_record
from phi3quant.run.conduct import Conduct

# Differences that a message lists; the rest are counted.
_SHOWN = 4


@dataclass(frozen=True)
class Journal:
    """Finished blocks of a run.

    Attributes:
        output: folder that the run will create.
        folder: folder of the workspace.
    """

    output: Path
    folder: Path

    @property
    def finished(self) -> int:
        """Number of finished blocks, counted from the first without a gap."""
        count = 0
        while self._path(count).is_file():
            count += 1
        return count

    @property
    def counted(self) -> str:
        """Text such as ``3 finished blocks``."""
        tuning = (self.folder / TUNING).exists()
        blocks = [_blocks(self.finished, "finished ")] if self.finished or not tuning else []
        return " and ".join([*blocks, *(["a part of the tuning"] if tuning else [])])

    @property
    def is_begun(self) -> bool:
        """Whether something is kept: finished blocks, or the state of a tuning."""
        return self.finished > 0 or (self.folder / TUNING).exists()

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Drop all finished blocks, and record the settings of those to come.

        Args:
            identity: everything that could change a bit of the result, as JSON values.

        Raises:
            OutputError: the record can't be written.
        """
        self.forget()
        write_json(self.folder / BEGUN, identity)
        sync(self.folder)
        sync(self.folder.parent)

    def forget(self) -> None:
        """Drop all finished blocks.

        Raises:
            OutputError: a file can't be deleted.
        """
        with clear_os_errors(self.output):
            for path in sorted(self.folder.glob("block-*.safetensors")):
                path.unlink()
            (self.folder / TUNING).unlink(missing_ok=True)

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse to resume a run that was started with different settings.

        Raises:
            ResumeError: settings differ; the message lists them.
        """
        try:
            before = _flat(read_json(self.folder / BEGUN))
        except InputError as error:
            raise ResumeError(f"{error}; {self._start_over()}") from None
        now = _flat(identity)
        changes = [
            f"{key} was {before.get(key, 'missing')} and is {now.get(key, 'missing')}"
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        ]
        if changes:
            more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
            raise ResumeError(
                f"can't resume {self.output}, which was started with different settings: "
                f"{'; '.join(changes[:_SHOWN])}{more}. Restore those, or {self._start_over()}"
            )

    def refuse_to_forget(self) -> None:
        """Refuse to start over if something is kept.

        Raises:
            ResumeError: there are finished blocks, or a part of a tuning.
        """
        if self.is_begun:
            raise ResumeError(
                f"{self.output} has an unfinished run with {self.counted}; "
                f"pass --resume to continue, or {self._start_over()}"
            )

    def keep(self, index: int, block: QuantizedBlock, report: Mapping[str, Any]) -> None:
        """Record a finished block.

        Raises:
            OutputError: the record can't be written.
        """
        write_record(self._path(index), block, report)

    def take(self, index: int, config: Phi3Config, codecs: Codecs) -> BlockRecord | None:
        """Read a finished block; if it is damaged, drop it and all later ones and return None."""
        record = read_record(self._path(index), config, codecs)
        if record is None:
            for later in range(index, self.finished):
                self._path(later).unlink()
        return record

    def how_to_resume(self) -> str:
        """Note for an error that ends a run early."""
        return (
            f"{self.counted} {self._are} kept in {self.folder}: "
            f"pass --resume to continue. To drop them, {self._start_over()}"
        )

    @property
    def _are(self) -> str:
        single = self.finished + (self.folder / TUNING).exists() == 1
        return "is" if single else "are"

    def _path(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.safetensors"

    def _start_over(self) -> str:
        return f"pass --overwrite to start over, or delete {self.folder}"


@contextmanager
def open_journal(output: Path, *, overwrite: bool = False) -> Iterator[tuple[Workspace, Journal]]:
    """Open the workspace of a calibrated run, with its finished blocks.

    If the body raises, finished blocks stay, and the exception gets a note on how to resume. If the
    weights are damaged, blocks of this run are dropped, unless it resumed an earlier run.

    Raises:
        OutputError: as open_workspace.
        ResumeError: another process is creating ``output``.
    """
    with open_workspace(output, overwrite=overwrite) as workspace:
        journal = Journal(output, workspace.folder)
        before = journal.is_begun
        try:
            with clear_os_errors(output):
                yield workspace, journal
        except BaseException as error:
            if isinstance(error, DamagedError) and not before:
                journal.forget()
            if (
                workspace.folder.exists()
                and journal.is_begun
                and not isinstance(error, ResumeError)
            ):
                error.add_note(journal.how_to_resume())
            raise


def prepare(
    journal: Journal, conduct: Conduct, inputs: Mapping[str, Any], device: torch.device = CPU
) -> None:
    """Prepare the journal: check its blocks if the run resumes, otherwise drop them."""
    identity = {
        **inputs,
        "tools": manifest.describe_tools(),
        "threads": torch.get_num_threads(),
        "products": str(product_dtype(device)),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": device_name(device),
    }
    if conduct.resume and journal.is_begun:
        journal.check(identity)
        conduct.say(f"resuming after {journal.counted}")
        return
    if conduct.resume:
        conduct.say(f"there are no finished blocks for {journal.output}; starting at the first")
    journal.begin(identity)


def _blocks(count: int, kind: str = "") -> str:
    return f"{count} {kind}block{'' if count == 1 else 's'}"


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Flatten nested JSON to strings with names such as ``recipe.bits`` or ``adapters.1.name``."""
    if isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        value = {str(number): part for number, part in enumerate(value, 1)}
    if not isinstance(value, Mapping):
        return {name: str(value)}
    entries = {}
    for key, part in value.items():
        entries.update(_flat(part, f"{name}.{key}" if name else str(key)))
    return entries
