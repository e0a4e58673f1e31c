"""Atomic writing of output files, and the checks that precede an output folder."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import InputError, OutputError

MANIFEST = "phi3quant.json"
"""Name of the manifest, which marks a folder as made by phi3quant."""

# Files that desktops add to every folder that someone opens.
_DESKTOP_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
# Foreign files that a message names; the rest are counted.
_SHOWN = 3
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


def check_output_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder whose replacement would destroy something.

    Raises:
        OutputError: ``path`` is a file or a link, or a folder that is not empty while
            ``overwrite`` is false, or a folder with a file that phi3quant did not make.
    """
    with clear_os_errors(path):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise OutputError(f"{path} is not a folder; choose another -o")
        if not path.exists() or not any(path.iterdir()):
            return
        if not overwrite:
            raise OutputError(
                f"{path} exists and is not empty; choose another -o, or pass --overwrite to "
                "replace it"
            )
        foreign = sorted(foreign_files(path))
    if foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise OutputError(
            f"{path} holds {', '.join(foreign[:_SHOWN])}{more}, not made by phi3quant; "
            "--overwrite replaces only its own output. Move them away or choose another -o"
        )


def foreign_files(folder: Path) -> Iterator[str]:
    """Paths, relative to ``folder``, of the files that are in no phi3quant manifest.

    Each file is looked up in the manifest of the nearest folder above it that has one.
    """
    listed: dict[Path, frozenset[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in _DESKTOP_FILES or (path.is_dir() and not path.is_symlink()):
            continue
        homes = (home for home in path.parents if home == folder or (home / MANIFEST).is_file())
        home = next(homes)
        if home not in listed:
            listed[home] = _listed(home)
        if path.relative_to(home).as_posix() not in listed[home]:
            yield path.relative_to(folder).as_posix()


def _listed(folder: Path) -> frozenset[str]:
    """Files listed in a folder's manifest; none if phi3quant didn't write the manifest."""
    try:
        manifest = read_json(folder / MANIFEST)
    except InputError:
        return frozenset()
    files = manifest.get("files")
    if not isinstance(manifest.get("schema"), int) or not isinstance(files, dict):
        return frozenset()
    return frozenset((MANIFEST, *files))


def check_not_inside(output: Path, source: Path) -> None:
    """Refuse an output inside the model's folder, and a model inside the output.

    Raises:
        OutputError: one lies in the other.
    """
    with clear_os_errors(output):
        inner, outer = output.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise OutputError(
            f"the output {output} and the model {source} must not lie inside one another; "
            "choose another -o"
        )


def check_space(output: Path, need: int) -> None:
    """Refuse an output of ``need`` bytes before the work starts if the disk lacks the space.

    Raises:
        OutputError: fewer than ``need`` bytes are free.
    """
    with clear_os_errors(output):
        place = next(parent for parent in output.resolve().parents if parent.exists())
        free = shutil.disk_usage(place).free
    if need > free:
        raise OutputError(
            f"{output} needs {need / 1e9:.2f} GB, but {place} has only {free / 1e9:.2f} GB free; "
            "free some space or choose another -o"
        )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically.

    Raises:
        OutputError: the file can't be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file atomically: a reader of ``path`` sees the old content or the new.

    The content is written to ``.NAME.phi3quant-partial`` and then renamed. If the process is
    killed, a later call reuses that file. A pipe or a device is written to directly.

    Args:
        path: the file.
        content: the whole content.
        replace: whether a file that has appeared at ``path`` meanwhile may be replaced.

    Raises:
        OutputError: the file can't be written, or another process is writing it.
    """
    with clear_os_errors(path):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        partial = path.with_name(f".{path.name}.phi3quant-partial")
        descriptor = _open_locked(partial, os.O_RDWR | os.O_CREAT)
        if descriptor is not None and os.fstat(descriptor).st_nlink > 1:
            # The writer was killed after os.link: the partial file is the finished file itself.
            partial.unlink()
            os.close(descriptor)
            descriptor = _open_locked(partial, os.O_RDWR | os.O_CREAT)
        if descriptor is None:
            raise OutputError(f"another process is writing {path}; wait until it is finished")
        with os.fdopen(descriptor, "wb") as file:
            try:
                file.truncate(0)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if replace:
                    partial.replace(path)
                else:
                    os.link(partial, path)
                    partial.unlink()
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise


def lock_folder(folder: Path) -> int | None:
    """Descriptor that locks a folder until it is closed; None if another process has the lock.

    Raises:
        OSError: the folder is a link, or can't be opened.
    """
    return _open_locked(folder, os.O_RDONLY | os.O_DIRECTORY)


def _open_locked(path: Path, flags: int) -> int | None:
    """Open and lock ``path``; retry if it was renamed or deleted before the lock was held."""
    while True:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            # Some network file systems have no locks. Going on without one is the lesser evil:
            # such systems are more common than two runs for one output.
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        try:
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                os.close(descriptor)
                raise
        os.close(descriptor)


_REASONS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EFBIG: "the file system or a limit allows no file of that size",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EEXIST: "something else has appeared there",
    errno.EIO: "the disk reports an error",
    errno.ENOENT: "a file or folder has disappeared",
    errno.ELOOP: "it is a link, and links are not followed there",
}
"""Messages for common errors; the system's own text is used for all others."""


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Convert errors of the operating system while ``path`` is written into OutputError."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or type(error).__name__
        named = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else path
        # The file that failed may belong to the model that is being read.
        other = Path(os.fsdecode(named))
        foreign = path.parent.absolute() not in other.absolute().parents
        what = (
            f"can't make {path}: {other}: {reason}" if foreign else f"can't write {path}: {reason}"
        )
        raise OutputError(f"{what}; no partial output was left") from error
    except ValueError as error:
        # Python raises ValueError ("embedded null byte") for a name with a NUL.
        if "null" not in str(error):
            raise
        raise OutputError(f"can't write {str(path)!r}: a name can't hold a NUL") from None


def sync_tree(folder: Path) -> None:
    """Wait until a folder's files and their names are on the disk."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Network file systems such as SMB can't sync folders.
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
