"""Supported operating systems."""

import sys

UNSUPPORTED = (
    "phi3quant runs on Linux and macOS; on Windows, use it in WSL (Windows Subsystem for Linux)"
    if sys.platform in {"win32", "cygwin"}
    else ""
)
"""Reason why this system is not supported; empty if it is."""


def require_supported() -> None:
    """Refuse unsupported systems with a clear message, before a missing module fails to import.

    Raises:
        ImportError: the system is not supported.
    """
    if UNSUPPORTED:
        raise ImportError(UNSUPPORTED)
