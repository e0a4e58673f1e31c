"""Files and their SHA-256: of a file that is there, and of one that is being written."""

import hashlib
from pathlib import Path
from typing import Any

from phi3quant.disk.writeback import Writeback


class HashedFile:
    """Bytes on their way to a file.

    Attributes:
        path: the file.
        size: bytes so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = path.open("wb")
        self._writeback = Writeback(self._file.fileno())
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            OSError: the file can't be written.
        """
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        self._writeback.grown(self.size)

    def close(self) -> dict[str, Any]:
        """Complete the file; gives what describe_file would say of it.

        Raises:
            OSError: the file can't be written.
        """
        self._file.close()
        return {"bytes": self.size, "sha256": self._hash.hexdigest()}


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
