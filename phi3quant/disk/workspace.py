"""The folder beside an output in which it is made, locked by the command that makes it.

``.OUT.unfinished`` holds

    begun.json     marks it as ours; for a calibrated run, all that decides its result
    done.json      the same file once the output is whole, while it takes its place
    whole/         the output as it grows; renamed to OUT in the end
    old/           what stood at OUT, until the new one does
    block-*        finished blocks (phi3quant.run.journal)
    states.*       hidden states that memory has no room for

A killed process leaves the folder behind. The next command for the same output puts ``old`` back if
nothing stands at OUT, drops ``whole``, and keeps finished blocks. Anything else in the folder is
somebody's, and is never touched.
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
from phi3quant.errors import OutputError, ResumeError

BEGUN, _DONE, _WHOLE, _OLD = "begun.json", "done.json", "whole", "old"
_BLOCK = re.compile(r"block-\d{5}\.safetensors")
_PARTIAL = re.compile(r"\..+\.phi3quant-partial")
_OURS = re.compile(
    rf"{BEGUN}|{_DONE}|{_WHOLE}|{_OLD}|{_BLOCK.pattern}|states\.[\w.]+|{_PARTIAL.pattern}"
)


@dataclass(frozen=True)
class Workspace:
    """A command's own place beside its output.

    Attributes:
        output: the folder that is going to be made.
        folder: ``.OUT.unfinished``.
        overwrite: whether what stands at ``output`` may be replaced, if phi3quant made it.
    """

    output: Path
    folder: Path
    overwrite: bool

    @property
    def draft(self) -> Path:
        """The output as it grows; its files are written here."""
        return self.folder / _WHOLE

    @property
    def has_blocks(self) -> bool:
        """Whether finished blocks are kept here."""
        return any(_BLOCK.fullmatch(path.name) for path in self.folder.iterdir())

    def begin_draft(self) -> Path:
        """An empty folder for the output's files.

        Raises:
            OutputError: it can't be made.
        """
        with clear_os_errors(self.output):
            _discard(self.draft)
            self.draft.mkdir()
        return self.draft

    def publish(self) -> None:
        """Give the draft the output's name; the workspace is gone afterwards.

        Raises:
            OutputError: something has appeared at the output meanwhile, or the system refuses.
                What stood there before is there again.
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
                # The system replaces an empty folder, and refuses one with content.
                self.draft.rename(self.output)
            except OSError:
                if old.exists() and not self.output.exists():
                    old.rename(self.output)
                self._rename(_DONE, BEGUN)
                raise
            sync(self.output.parent)
            self.remove()

    def recover(self) -> None:
        """Bring the workspace of a killed process in order.

        Raises:
            OutputError: the system refuses.
        """
        with clear_os_errors(self.output):
            done = self.folder / _DONE
            if done.exists() and not self.draft.exists():
                # Killed after the output took its place.
                self.clear()
                return
            self._put_back()
            self.drop_draft()

    def drop_draft(self) -> None:
        """Delete what is only worth something within a run; finished blocks stay."""
        # Without a draft, done.json means that the output took its place, and old/ is deleted.
        if self.draft.exists() and (self.folder / _DONE).exists():
            self._rename(_DONE, BEGUN)
        _discard(self.draft)
        for path in self.folder.glob("states.*"):
            path.unlink()

    def clear(self) -> None:
        """Delete everything of ours; the folder stays.

        Raises:
            OSError: the system refuses.
        """
        marks = (self.folder / _DONE, self.folder / BEGUN)
        for path in sorted(self.folder.iterdir()):
            if _OURS.fullmatch(path.name) and path not in marks:
                _discard(path)
        # Last, since without them the rest would count as somebody's.
        for path in marks:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the workspace, as far as the system allows; the next command does the rest."""
        with contextlib.suppress(OSError):
            self.clear()
            self.folder.rmdir()

    def _put_back(self) -> None:
        old = self.folder / _OLD
        if not old.exists():
            return
        if self.output.exists():
            raise OutputError(
                f"{old} is what stood at {self.output} before something else appeared there; "
                "move one of them away"
            )
        old.rename(self.output)
        sync(self.output.parent)

    def _rename(self, name: str, other: str) -> None:
        (self.folder / name).rename(self.folder / other)
        sync(self.folder)


@contextlib.contextmanager
def open_workspace(output: Path, *, overwrite: bool) -> Iterator[Workspace]:
    """The workspace of an output; no other command can have it meanwhile.

    Whatever ends the body (an error, a full disk, Ctrl-C) drops the draft. Finished blocks stay,
    and so does what stood at ``output`` before.

    Raises:
        OutputError: see check_output_folder; or the workspace can't be made, or holds something
            that phi3quant did not make.
        ResumeError: another process is making ``output``.
    """
    check_output(output, overwrite=overwrite)
    workspace = _workspace(output, overwrite=overwrite)
    made = [parent for parent in output.parents if not parent.exists()]
    lock = _locked(workspace)
    try:
        try:
            _check_ours(workspace.folder)
            workspace.recover()
            # It may have come meanwhile: by another process, or by recovery.
            check_output_folder(output, overwrite=overwrite)
            if not (workspace.folder / BEGUN).exists():
                write_json(workspace.folder / BEGUN, {})
            with clear_os_errors(output):
                yield workspace
        except BaseException:
            with uninterrupted():
                _end_early(workspace, made)
            raise
    finally:
        os.close(lock)


def check_output(output: Path, *, overwrite: bool) -> None:
    """As phi3quant.disk.output.check_output_folder, once what a killed process left is in order.

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
                f"{folder} is a link, and unfinished work is kept there; move it away"
            )
        lock = None
        for _ in range(10):
            # Whoever had it may delete it just now.
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                lock = lock_folder(folder)
                break
    if lock is None:
        raise ResumeError(
            f"another process is making {workspace.output} at this moment; wait for it"
        )
    return lock


def _check_ours(folder: Path) -> None:
    """Refuse a folder with anything in it that no command of ours put there.

    Raises:
        OutputError: it has.
    """
    names = sorted(path.name for path in folder.iterdir())
    marked = BEGUN in names or _DONE in names
    # The first file, which is the mark, may be unfinished itself.
    ours = _OURS if marked else _PARTIAL
    foreign = [name for name in names if not ours.fullmatch(name)]
    if foreign:
        raise OutputError(
            f"{folder}, where unfinished work is kept, holds {foreign[0]}, not made by phi3quant; "
            "move it away"
        )


def _end_early(workspace: Workspace, made: list[Path]) -> None:
    with contextlib.suppress(OSError, OutputError):
        # A file that may be somebody's stays, and so does the folder.
        _check_ours(workspace.folder)
        if workspace.has_blocks or (workspace.folder / _OLD).exists():
            workspace.drop_draft()
            return
        workspace.remove()
        for parent in made:
            parent.rmdir()


def _discard(path: Path) -> None:
    """Delete a file or a folder; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
