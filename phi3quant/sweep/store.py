"""Finished results of sweeps at an address of fsspec, such as a bucket, under the same names.

A machine without a disk of its own finds the results of others there, and the nodes of a cluster
need no folder that all of them see. Figures are written last, so that an artifact with figures is
complete; what comes from an address counts only after the cache has compared it with its hashes.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from phi3quant.disk.output import check_space, clear_os_errors
from phi3quant.errors import InputError, MissingExtraError, OutputError, Phi3QuantError
from phi3quant.sweep.folder import SweepFolder
from phi3quant.visible import visible

# Files of one artifact; folders of safetensors have a few dozen.
_MOST_FILES = 10_000
_FETCHING = ".fetching"


@dataclass(frozen=True)
class Store:
    """An address that keeps results.

    Attributes:
        address: such as ``s3://bucket/sweep``.
    """

    address: str

    def check(self) -> None:
        """Refuse an address that can't be used.

        Raises:
            MissingExtraError: fsspec isn't installed.
            InputError: fsspec has no such protocol, or its package isn't installed.
            OutputError: the address can't be written.
        """
        with self._opened() as (files, root):
            files.makedirs(root, exist_ok=True)

    def has(self, folder: SweepFolder, key: str) -> bool:
        """Whether the figures of a job are at the address.

        Raises:
            OutputError: the address can't be read.
        """
        with self._opened() as (files, root):
            return _there(files, root, folder, folder.outcome(key)) is not None

    def fetch(self, folder: SweepFolder, key: str) -> None:
        """Copy a job's artifact and figures into the folder, if only the address has them.

        Raises:
            OutputError: a file can't be copied, or has a name that leads out of the folder.
        """
        with self._opened() as (files, root):
            figures = _there(files, root, folder, folder.outcome(key))
            artifact = folder.artifact(key)
            if figures is None or artifact.exists() or folder.outcome(key).exists():
                return
            stored = f"{root}/{_name(folder, artifact)}"
            sizes = {str(path): int(files.size(path) or 0) for path in files.find(stored)}
            places = [_inside(path, stored, self.address) for path in sizes]
            if len(sizes) > _MOST_FILES:
                raise OutputError(f"{self.address} has {len(sizes):,} files of one artifact")
            check_space(artifact, sum(sizes.values()))
            partial = artifact.with_name(f".{key}{_FETCHING}")
            with clear_os_errors(partial):
                shutil.rmtree(partial, ignore_errors=True)
                for path, place in zip(sizes, places, strict=True):
                    (partial / place).parent.mkdir(parents=True, exist_ok=True)
                    files.get_file(path, str(partial / place))
                partial.replace(artifact)
            _get(files, figures, folder.outcome(key))

    def keep(self, folder: SweepFolder, key: str) -> None:
        """Copy the artifact and the figures of a job to the address, in place of what is there.

        Raises:
            OutputError: a file can't be copied.
        """
        with self._opened() as (files, root):
            artifact = folder.artifact(key)
            # In this order, since an artifact with figures counts as complete.
            for old in (folder.outcome(key), artifact):
                remote = f"{root}/{_name(folder, old)}"
                if files.exists(remote):
                    files.rm(remote, recursive=True)
            paths = [path for path in sorted(artifact.rglob("*")) if path.is_file()]
            for path in [*paths, folder.log(key), folder.outcome(key)]:
                if path.is_file():
                    _put(files, root, folder, path)

    def exchange_files(self, folder: SweepFolder, *paths: Path) -> None:
        """Copy files that belong together to the side that lacks the last of them.

        Raises:
            OutputError: a file can't be copied.
        """
        with self._opened() as (files, root):
            stored = [_there(files, root, folder, path) for path in paths]
            here, there = paths[-1].is_file(), stored[-1] is not None
            for path, remote in zip(paths, stored, strict=True):
                if here and not there:
                    _put(files, root, folder, path)
                elif there and not here and remote is not None:
                    _get(files, remote, path)

    def replace_file(self, folder: SweepFolder, path: Path) -> None:
        """Copy a file to the address, in place of what is there.

        Raises:
            OutputError: the file can't be copied.
        """
        with self._opened() as (files, root):
            _put(files, root, folder, path)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """File system and path; errors of any protocol name the address."""
        if not self.address.strip():
            raise InputError("the address of the store is empty; give one like s3://bucket/sweep")
        try:
            import fsspec  # noqa: PLC0415 - an extra
        except ImportError:
            raise MissingExtraError("a store of results", "store") from None
        try:
            files, root = fsspec.core.url_to_fs(self.address)
        # Protocols raise errors of their own packages.
        except Exception as error:  # noqa: BLE001
            raise InputError(f"the store {self.address}: {visible(str(error))}") from None
        try:
            yield files, str(root).rstrip("/")
        except Phi3QuantError:
            raise
        except Exception as error:  # noqa: BLE001
            reason = visible(str(error)) or type(error).__name__
            raise OutputError(f"the store {self.address} can't be used: {reason}") from None


def _name(folder: SweepFolder, path: Path) -> str:
    return path.relative_to(folder.path).as_posix()


def _there(files: Any, root: str, folder: SweepFolder, path: Path) -> str | None:
    """Path at the address of a file of the folder; None if there is none."""
    remote = f"{root}/{_name(folder, path)}"
    return remote if files.isfile(remote) else None


def _inside(path: str, stored: str, address: str) -> PurePosixPath:
    """Name of a file in an artifact, which must not lead out of it."""
    _, _, name = path.partition(stored.lstrip("/") + "/")
    place = PurePosixPath(name)
    if not name or place.is_absolute() or ".." in place.parts or "\\" in name:
        raise OutputError(f"{address} has a file with an unusable name: {visible(path)}")
    return place


def _put(files: Any, root: str, folder: SweepFolder, path: Path) -> None:
    remote = f"{root}/{_name(folder, path)}"
    files.makedirs(remote.rpartition("/")[0], exist_ok=True)
    files.put_file(str(path), remote)


def _get(files: Any, remote: str, path: Path) -> None:
    partial = path.with_name(f".{path.name}{_FETCHING}")
    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(remote, str(partial))
        partial.replace(path)
