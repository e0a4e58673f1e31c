"""Output that appears whole or not at all: written beside its place, synced, renamed."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi3quant.errors import OutputError

MANIFEST = "phi3quant.json"
"""The file that marks a folder as made by phi3quant; only such a folder is ever overwritten."""


def check_output_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that would destroy something.

    Raises:
        OutputError: ``path`` is a file, or a folder with content and no leave to replace it,
            or one that phi3quant did not make.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputError(f"{path} is not a folder; choose another -o")
    if not path.exists() or not any(path.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            f"{path} exists and is not empty; choose another -o, or pass --overwrite to replace it"
        )
    if not (path / MANIFEST).is_file():
        raise OutputError(
            f"{path} was not made by phi3quant (it has no {MANIFEST}); "
            "--overwrite replaces only its own output. Choose another -o"
        )


def check_not_inside(output: Path, source: Path) -> None:
    """Refuse an output that lies in the model's folder, or the other way round.

    Raises:
        OutputError: it does.
    """
    inner, outer = output.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise OutputError(
            f"the output {output} and the model {source} lie in one another; choose another -o"
        )


def check_space(output: Path, need: int) -> None:
    """Refuse before the work starts when the disk can't hold ``need`` bytes.

    Raises:
        OutputError: it can't.
    """
    place = next(parent for parent in output.resolve().parents if parent.exists())
    with clear_os_errors(output):
        free = shutil.disk_usage(place).free
    if need > free:
        raise OutputError(
            f"{output} needs {need / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free; "
            "no space is left for it. Free some or choose another -o"
        )


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside ``path`` to fill; it takes the name ``path`` when the body succeeds.

    Whatever ends the body (an error, a full disk, Ctrl-C) removes the new folder, and what stood
    at ``path`` before stays. What a process left that was killed meanwhile, the next one removes.

    Raises:
        OutputError: see check_output_folder; or the disk is full, read-only or not permitted.
    """
    check_output_folder(path, overwrite=overwrite)
    partial = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
    lock = None
    try:
        with clear_os_errors(path):
            _remove_abandoned(path)
            partial.mkdir(parents=True)
            lock = locked(partial)
            yield partial
            _sync_tree(partial)
            _replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of ``path``: a folder in work is locked by its process."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.partial-????????"):
        lock = locked(partial) if partial.is_dir() else None
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def locked(folder: Path) -> int | None:
    """A descriptor that locks a folder until it is closed; None if another process has the lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _replace_folder(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
    elif not any(path.iterdir()):
        path.rmdir()
        new.rename(path)
    else:
        # A folder can't be replaced in one step; the old one steps aside until the new one stands.
        old = path.parent / f".{path.name}.old-{uuid.uuid4().hex[:8]}"
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically.

    Raises:
        OutputError: the file can't be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically: whoever opens ``path`` sees the old content or the new.

    Raises:
        OutputError: the file can't be written.
    """
    partial = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        with clear_os_errors(path):
            partial.write_bytes(content)
            sync(partial)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write at ``path`` into an OutputError."""
    causes = {
        errno.ENOSPC: "no space is left on the disk",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOTDIR: "a part of the path is a file",
        errno.EFBIG: "the file system or a limit allows no file of that size",
        errno.ENAMETOOLONG: "the name is too long",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in causes:
            raise
        raise OutputError(
            f"can't write {path}: {causes[error.errno]}; nothing of it was left half-written"
        ) from error


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
