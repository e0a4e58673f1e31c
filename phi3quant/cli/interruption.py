"""Ctrl-C and SIGTERM: the first ends the command cleanly, the third ends it at once.

Imports only the standard library, so that handlers are in place before anything slow is loaded.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130

MESSAGE = "Interrupted; nothing was left half-written."

_STILL_CLEANING = b"\nStill cleaning up; a third signal ends it at once and may leave files.\n"
# Seconds before a dropped interruption is raised again.
_AGAIN = 0.01
# Number of signals so far.
_asked = 0


def stopping() -> bool:
    """Whether a signal has come."""
    return _asked > 0


def take_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt; nohup keeps SIGHUP ignored."""
    global _asked  # noqa: PLW0603 - signals belong to the process
    _asked = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def strike_again() -> None:
    """Raise an interruption once more if Python drops it because it came inside a callback.

    Python would print a traceback and continue.
    """
    dropped: Callable[[Any], Any] = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        global _asked  # noqa: PLW0603
        if stopping() and issubclass(unraisable.exc_type, KeyboardInterrupt):
            _asked -= 1
            # Not from here: it would be dropped again.
            threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            dropped(unraisable)

    sys.unraisablehook = hook


def ignore_signals() -> None:
    """Ignore signals after the command has ended, while the process exits."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # If the last exec of a string was interrupted, Python ends by SIGINT, whatever the exit code.
    # Creating a dataclass is such an exec.
    exec("pass")  # noqa: S102


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    global _asked  # noqa: PLW0603
    _asked += 1
    if _asked == 1:
        raise KeyboardInterrupt
    if _asked == 2:  # the clean-up goes on
        with contextlib.suppress(OSError):
            os.write(2, _STILL_CLEANING)
        return
    os._exit(EXIT_INTERRUPTED)
