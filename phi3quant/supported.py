"""Systems that phi3quant runs on."""

import sys

UNSUPPORTED = (
    "phi3quant runs on Linux and macOS; on Windows, use it in WSL (Windows Subsystem for Linux)"
    if sys.platform in {"win32", "cygwin"}
    else ""
)
"""Reason why it can't run here; empty where it can."""


def require_supported() -> None:
    """Refuse other systems with a sentence, before a module that they lack is imported.

    Raises:
        ImportError: this is one.
    """
    if UNSUPPORTED:
        raise ImportError(UNSUPPORTED)
