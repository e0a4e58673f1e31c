"""SHA-256 of files, existing ones and ones that are being written."""

import hashlib
from pathlib import Path
from typing import Any

from phi3quant.disk.writeback import Writeback


class HashedFile:
    """Writer that hashes bytes on their way to a file.

    Attributes:
        path: the file.
        size: number of bytes written so far.
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
        """Complete the file.

        Returns:
            Size and SHA-256, as describe_file returns them.

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
    """Size and SHA-256 of a file, under the keys ``bytes`` and ``sha256``."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
