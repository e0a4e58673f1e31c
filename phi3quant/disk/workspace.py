"""Workspace: the locked folder next to an output in which the output is made.

``.OUT.unfinished`` contains

    begun.json     mark of a workspace; for a calibrated run, everything that decides its result
    done.json      the same file, renamed while the complete output replaces OUT
    whole/         the output while it is written; renamed to OUT at the end
    old/           the previous OUT, until the new one has replaced it
    block-*        finished blocks (phi3quant.run.journal)
    states.*       hidden states that don't fit in memory
    tuning.*       state of an interrupted tuning (phi3quant.tuning.resume_point)

A killed process leaves the folder behind. The next command for the same output moves ``old`` back
if OUT is missing, deletes ``whole`` and keeps finished blocks. Any other file in the folder belongs
to someone else and is never touched.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phi3quant.disk.output import (
    check_output_folder,
    clear_os_errors,
    lock_folder,
    sync,
    sync_tree,
    write_json,
)
from phi3quant.disk.shield import uninterrupted
from phi3quant.errors import BusyError, OutputError

BEGUN, _DONE, _WHOLE, _OLD = "begun.json", "done.json", "whole", "old"
TUNING = "tuning.safetensors"
_BLOCK = re.compile(r"block-\d{5}\.safetensors")
_PARTIAL = re.compile(r"\..+\.phi3quant-partial")
_OURS = re.compile(
    rf"{BEGUN}|{_DONE}|{_WHOLE}|{_OLD}|{TUNING}|{_BLOCK.pattern}|states\.[\w.]+|{_PARTIAL.pattern}"
)


@dataclass(frozen=True)
class Workspace:
    """Folder next to an output, used by one command at a time.

    Attributes:
        output: the folder to make.
        folder: ``.OUT.unfinished``.
        overwrite: whether an existing ``output`` may be replaced, provided phi3quant made it.
    """

    output: Path
    folder: Path
    overwrite: bool

    @property
    def draft(self) -> Path:
        """Folder in which the output's files are written."""
        return self.folder / _WHOLE

    @property
    def has_blocks(self) -> bool:
        """Whether finished blocks, or the state of a tuning, are kept here."""
        return any(_is_kept(path) for path in self.folder.iterdir())

    def begin_draft(self) -> Path:
        """Make the draft an empty folder and return its path.

        Raises:
            OutputError: the folder can't be made.
        """
        with clear_os_errors(self.output):
            _discard(self.draft)
            self.draft.mkdir()
        return self.draft

    def publish(self) -> None:
        """Rename the draft to the output and delete the workspace.

        Raises:
            OutputError: something has appeared at the output meanwhile, or the system refuses.
                The previous output is back in place.
        """
        with clear_os_errors(self.output):
            sync_tree(self.draft)
        with uninterrupted(), clear_os_errors(self.output):
            check_output_folder(self.output, overwrite=self.overwrite)
            self._rename(BEGUN, _DONE)
            old = self.folder / _OLD
            try:
                if self.overwrite and self.output.exists():
                    self.output.rename(old)
                # rename(2) replaces an empty folder and fails for one with content.
                self.draft.rename(self.output)
            except OSError:
                if old.exists() and not self.output.exists():
                    old.rename(self.output)
                self._rename(_DONE, BEGUN)
                raise
            sync(self.output.parent)
            self.remove()

    def recover(self) -> None:
        """Clean up after a killed process.

        Raises:
            OutputError: the system refuses.
        """
        with clear_os_errors(self.output):
            done = self.folder / _DONE
            if done.exists() and not self.draft.exists():
                # The process was killed after the output was in place.
                self.clear()
                return
            self._put_back()
            self.drop_draft()

    def drop_draft(self) -> None:
        """Delete the draft and the hidden states; keep finished blocks."""
        # done.json without a draft would mean that the output is in place, and recovery would
        # delete old/.
        if self.draft.exists() and (self.folder / _DONE).exists():
            self._rename(_DONE, BEGUN)
        _discard(self.draft)
        for path in self.folder.glob("states.*"):
            path.unlink()

    def drop_blocks(self) -> None:
        """Delete what is kept of an unfinished run.

        Raises:
            OutputError: the system refuses.
        """
        with clear_os_errors(self.output):
            for path in sorted(self.folder.iterdir()):
                if _is_kept(path):
                    path.unlink()

    def clear(self) -> None:
        """Delete all files of the workspace, but not the folder.

        Raises:
            OSError: the system refuses.
        """
        marks = (self.folder / _DONE, self.folder / BEGUN)
        for path in sorted(self.folder.iterdir()):
            if _OURS.fullmatch(path.name) and path not in marks:
                _discard(path)
        # Last, since without a mark the remaining files would count as foreign.
        for path in marks:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the workspace as far as possible; the next command deletes the rest."""
        with contextlib.suppress(OSError):
            self.clear()
            self.folder.rmdir()

    def _put_back(self) -> None:
        old = self.folder / _OLD
        if not old.exists():
            return
        if self.output.exists():
            raise OutputError(
                f"{old} is the previous content of {self.output}, but something else has appeared "
                "there; move one of them away"
            )
        old.rename(self.output)
        sync(self.output.parent)

    def _rename(self, name: str, other: str) -> None:
        (self.folder / name).rename(self.folder / other)
        sync(self.folder)


@contextlib.contextmanager
def open_workspace(output: Path, *, overwrite: bool) -> Iterator[Workspace]:
    """Workspace of an output, locked for the duration of the body.

    If the body ends early (an error, a full disk, Ctrl-C), the draft is deleted. Finished blocks
    and the previous ``output`` stay.

    Raises:
        OutputError: see check_output_folder; or the workspace can't be made, or it contains a
            file that phi3quant did not make.
        BusyError: another process is making ``output``.
    """
    check_output(output, overwrite=overwrite)
    workspace = _workspace(output, overwrite=overwrite)
    new_parents = [parent for parent in output.parents if not parent.exists()]
    lock = _locked(workspace)
    try:
        try:
            _check_ours(workspace.folder)
            workspace.recover()
            # Another process or the recovery may have created the output meanwhile.
            check_output_folder(output, overwrite=overwrite)
            if not (workspace.folder / BEGUN).exists():
                write_json(workspace.folder / BEGUN, {})
            with clear_os_errors(output):
                yield workspace
        except BaseException:
            with uninterrupted():
                _end_early(workspace, new_parents)
            raise
    finally:
        os.close(lock)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Clean up after a killed process, then check the output as check_output_folder does.

    Raises:
        OutputError: the output can't be made there.
    """
    workspace = _workspace(output, overwrite=overwrite)
    if (workspace.folder / _DONE).exists() and not workspace.folder.is_symlink():
        lock = lock_folder(workspace.folder)
        if lock is not None:
            workspace.recover()
            if not workspace.has_blocks:
                workspace.remove()
            os.close(lock)
    check_output_folder(output, overwrite=overwrite)


def _workspace(output: Path, *, overwrite: bool) -> Workspace:
    return Workspace(output, output.parent / f".{output.name}.unfinished", overwrite)


def _locked(workspace: Workspace) -> int:
    folder = workspace.folder
    with clear_os_errors(workspace.output):
        if folder.is_symlink():
            raise OutputError(
                f"{folder} is a link, but phi3quant needs a folder of that name for unfinished "
                "work; move the link away"
            )
        lock = None
        for _ in range(10):
            # A process that is just ending may delete the folder before it can be locked.
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                lock = lock_folder(folder)
                break
    if lock is None:
        raise BusyError(f"another process is making {workspace.output}; wait until it is finished")
    return lock


def _check_ours(folder: Path) -> None:
    """Refuse a workspace that contains a file which phi3quant did not put there.

    Raises:
        OutputError: there is such a file.
    """
    names = sorted(path.name for path in folder.iterdir())
    marked = BEGUN in names or _DONE in names
    # Without a mark only its partial file is ours: the mark is the first file to be written.
    ours = _OURS if marked else _PARTIAL
    foreign = [name for name in names if not ours.fullmatch(name)]
    if foreign:
        raise OutputError(
            f"{folder}, the folder for unfinished work, holds {foreign[0]}, not made by phi3quant; "
            "move it away"
        )


def _end_early(workspace: Workspace, new_parents: list[Path]) -> None:
    with contextlib.suppress(OSError, OutputError):
        # The folder stays if it contains a foreign file.
        _check_ours(workspace.folder)
        if workspace.has_blocks or (workspace.folder / _OLD).exists():
            workspace.drop_draft()
            return
        workspace.remove()
        for parent in new_parents:
            parent.rmdir()


def _is_kept(path: Path) -> bool:
    return path.name == TUNING or _BLOCK.fullmatch(path.name) is not None


def _discard(path: Path) -> None:
    """Delete a file or a folder; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
