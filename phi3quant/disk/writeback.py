"""Early write-back of a growing file.

Without it, the system keeps the data in memory until fsync, which then waits for all of it.
"""

import os

# Small enough that fsync has little left to wait for; large enough that the calls cost nothing
# compared with the writing.
_PART_BYTES = 32 << 20


class Writeback:
    """Start write-back of a growing file, part by part."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started = 0

    def grown(self, size: int) -> None:
        """Start write-back of the new bytes once there are enough of them; don't wait for it.

        Args:
            size: current size of the file in bytes.

        Raises:
            OSError: the file can't be written.
        """
        new = size - self._started
        if new < _PART_BYTES:
            return
        if hasattr(os, "posix_fadvise"):
            # DONTNEED makes Linux start to write dirty pages, which it can't drop before.
            os.posix_fadvise(self._descriptor, self._started, new, os.POSIX_FADV_DONTNEED)
        self._started = size
