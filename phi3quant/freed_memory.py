"""Freed memory that stays with the process, because clearing new pages takes time.

glibc returns large buffers to the system as soon as they are freed, and the system clears the pages
of new ones. Calibration allocates and frees such buffers all the time. Kept memory is reused
instead, at the cost of a larger process.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Parameters of mallopt(3): free bytes at the end of the heap before they are returned, bytes from
# which buffers are outside the heap, and the largest number of these.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ALL, _NONE = 2**31 - 1, 0
# glibc's values: it raises both thresholds by itself up to these, until they are first set.
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}


@contextmanager
def kept(*, keep: bool) -> Iterator[None]:
    """Keep freed memory for reuse meanwhile, if ``keep`` and the C library is glibc."""
    library = _glibc() if keep else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, _NONE)
    library.mallopt(_TRIM_THRESHOLD, _ALL)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def release() -> None:
    """Return kept memory to the system, before a step that needs buffers of other sizes."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    # Other C libraries, such as musl, lack them.
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
