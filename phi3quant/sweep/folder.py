"""Folder of a sweep.

    sweep.json       results so far, and the mark of a sweep
    report.html      the same as a page
    artifacts/KEY    output of a job, as awq, gptq or rtn write it
    outcomes/KEY     figures of a job, as JSON
    originals/KEY    predictions of a model in full precision
    logs/KEY.log     log of a job

Keys are hashes of everything that decides a result, so that sweeps with one folder share it.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phi3quant.disk.output import clear_os_errors, lock_folder, write_json
from phi3quant.errors import BusyError, OutputError
from phi3quant.run.journal import Journal

RESULTS = "sweep.json"
"""Name of the file with the results, which marks the folder of a sweep."""


@dataclass(frozen=True)
class SweepFolder:
    """Places of a sweep's files.

    Attributes:
        path: the folder.
    """

    path: Path

    def absolute(self) -> "SweepFolder":
        """The same folder by its absolute path."""
        return SweepFolder(self.path.absolute())

    @property
    def results(self) -> Path:
        """Results so far, as JSON."""
        return self.path / RESULTS

    @property
    def page(self) -> Path:
        """Report of the sweep."""
        return self.path / "report.html"

    def artifact(self, key: str) -> Path:
        """Output of a job."""
        return self.path / "artifacts" / key

    def outcome(self, key: str) -> Path:
        """Figures of a job."""
        return self.path / "outcomes" / f"{key}.json"

    def original(self, key: str) -> Path:
        """Predictions in full precision, without the suffix of either file."""
        return self.path / "originals" / key

    def log(self, key: str) -> Path:
        """Log of a job."""
        return self.path / "logs" / f"{key}.log"

    def finished_blocks(self, key: str) -> int:
        """Number of blocks that an interrupted job has finished."""
        output = self.artifact(key)
        return Journal(output, output.parent / f".{output.name}.unfinished").finished

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if it doesn't exist, and keep other sweeps out of it.

        Raises:
            OutputError: it has other content, or can't be created.
            BusyError: another sweep is using it.
        """
        with clear_os_errors(self.path):
            self.check()
            self.make()
            lock = lock_folder(self.path)
        if lock is None:
            raise BusyError(f"another sweep is using {self.path}; wait until it is finished")
        try:
            if not self.results.exists():
                write_json(self.results, {})
            yield
        finally:
            os.close(lock)

    def make(self) -> None:
        """Create the folder and those in it, unless they exist."""
        for name in ("artifacts", "outcomes", "originals", "logs"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Refuse a folder with other content.

        Raises:
            OutputError: it has other content, or is not a folder.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise OutputError(f"{self.path} is not a folder; choose another -o")
        # A sweep that ended before its first file leaves only folders.
        if (
            self.path.is_dir()
            and not self.results.is_file()
            and any(path.is_file() for path in self.path.rglob("*"))
        ):
            raise OutputError(
                f"{self.path} is not empty and has no {RESULTS} of a sweep; choose another -o"
            )
