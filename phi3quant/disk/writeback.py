"""Taking a file's bytes to the disk while further ones come.

The system would leave that for the moment when all of it is waited for.
"""

import os

# Few enough that little is left to wait for, enough that asking costs nothing beside writing them.
_PART_BYTES = 32 << 20


class Writeback:
    """Of one file that grows."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun = 0

    def grown(self, size: int) -> None:
        """Have what is new taken to the disk, once it is enough, without waiting for it.

        Args:
            size: of the file, in bytes.

        Raises:
            OSError: the file can't be written.
        """
        new = size - self._begun
        if new < _PART_BYTES:
            return
        if hasattr(os, "posix_fadvise"):
            # Linux begins to write pages that nobody is said to need, which it can't drop yet.
            os.posix_fadvise(self._descriptor, self._begun, new, os.POSIX_FADV_DONTNEED)
        self._begun = size
