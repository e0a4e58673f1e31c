"""Ctrl-C and polite kills: the first ends the command and cleans up, the third ends it at once.

Only the standard library is imported, so that signals are taken before anything slow is loaded.
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

_STILL_CLEANING = b"\nStill cleaning up; once more ends it at once and may leave files.\n"
# Seconds after which a dropped interruption is raised again.
_AGAIN = 0.01
# How many signals have asked for an end.
_asked = 0


def stopping() -> bool:
    """Whether a signal has asked for an end."""
    return _asked > 0


def take_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt; nohup keeps SIGHUP ignored."""
    global _asked  # noqa: PLW0603 - signals belong to the process
    _asked = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def strike_again() -> None:
    """Where Python drops an interruption that strikes inside a callback, raise it once more.

    It would print a traceback for it and go on.
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
    """Let a process that has ended its command go in peace."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Python ends by SIGINT, whatever the exit code, if the last exec of a string was interrupted;
    # dataclasses, for one, are made by such.
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
