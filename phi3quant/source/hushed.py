"""Standard error without what a library's compiled code prints there before it raises."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_STDERR = 2
_LOCK = threading.RLock()
_heard: dict[int, IO[bytes]] = {}
"""A file for each process: a forked one must not share its parent's."""


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Drop what is written to descriptor 2 if the body raises; else write it there afterwards.

    Rust prints a panic, with advice for its developers, before Python sees an exception.
    """
    with _LOCK:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # it is closed
            yield
            return
        heard = _heard.get(os.getpid())
        if heard is None:
            heard = _heard[os.getpid()] = tempfile.TemporaryFile()  # noqa: SIM115 - kept
        try:
            os.dup2(heard.fileno(), _STDERR)
            try:
                yield
            finally:
                os.dup2(saved, _STDERR)
            length = os.lseek(heard.fileno(), 0, os.SEEK_CUR)
            if length:
                os.write(_STDERR, os.pread(heard.fileno(), length, 0))
        finally:
            os.close(saved)
            os.lseek(heard.fileno(), 0, os.SEEK_SET)
            os.ftruncate(heard.fileno(), 0)
