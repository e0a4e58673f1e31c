"""Suppression of messages that compiled code prints to standard error before it raises."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_STDERR = 2
_LOCK = threading.RLock()
_captures: dict[int, IO[bytes]] = {}
"""Temporary file by process id: a forked process must not share its parent's."""


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Capture writes to descriptor 2; drop them if the body raises, otherwise repeat them.

    Rust prints a panic, with advice for developers, before the exception reaches Python.
    """
    with _LOCK:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # standard error is closed
            yield
            return
        capture = _captures.get(os.getpid())
        if capture is None:
            capture = _captures[os.getpid()] = tempfile.TemporaryFile()  # noqa: SIM115 - kept
        try:
            os.dup2(capture.fileno(), _STDERR)
            try:
                yield
            finally:
                os.dup2(saved, _STDERR)
            length = os.lseek(capture.fileno(), 0, os.SEEK_CUR)
            if length:
                os.write(_STDERR, os.pread(capture.fileno(), length, 0))
        finally:
            os.close(saved)
            os.lseek(capture.fileno(), 0, os.SEEK_SET)
            os.ftruncate(capture.fileno(), 0)
