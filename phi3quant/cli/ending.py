"""The end of a command: one message and an exit code for every error."""

import contextlib
import errno
import io
import os
import re
from collections.abc import Callable
from typing import Any

import click

from phi3quant.cli.interruption import EXIT_INTERRUPTED, MESSAGE, stopping
from phi3quant.cli.terminal import abandon_stdout, echo, finish_stdout, is_broken_pipe
from phi3quant.errors import NotComparableError, Phi3QuantError

EXIT_BAD_INPUT = 2
EXIT_NOT_COMPARABLE = 3
EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an error without a message of its own."""
EXIT_READER_GONE = 141
"""128 + SIGPIPE, as shells report it."""

TRACEBACK = "PHI3QUANT_TRACEBACK"
"""Environment variable that raises such errors, with their traceback."""

# Messages of libraries that run out of memory; their error classes differ.
_NO_MEMORY = re.compile(
    r"not enough memory|can(no|')t allocate memory|bad.alloc|failed to allocate|"
    r"can't start new thread",
    re.IGNORECASE,
)


class StreamError(Exception):
    """An OSError, wrapped so that click doesn't turn a broken pipe into exit code 1."""


def ended(command: Callable[[], Any]) -> int:
    """Run a command and report its error.

    Args:
        command: click's, not standalone: returns an exit code, or anything else for 0.

    Returns:
        The exit code.

    Raises:
        Exception: a bug's error, if TRACEBACK is set.
    """
    try:
        code = command()
        finish_stdout()
    # Interruptions come at any place, and a library's panic may be a BaseException.
    except BaseException as error:
        cause = _cause(error)
        if not stopping() and _is_bug(cause) and os.environ.get(TRACEBACK):
            raise
        return _reported(cause)
    return code if isinstance(code, int) and not isinstance(code, bool) else 0


def _cause(error: BaseException) -> BaseException:
    """The original of an error that was wrapped."""
    wrapped = isinstance(error, StreamError | click.Abort) and error.__cause__ is not None
    return error.__cause__ if wrapped and error.__cause__ is not None else error


def _is_bug(error: BaseException) -> bool:
    known = (click.ClickException, click.Abort, Phi3QuantError, OSError, MemoryError, SystemExit)
    return not isinstance(error, (*known, KeyboardInterrupt, EOFError)) and not _lacks_memory(error)


def _reported(error: BaseException) -> int:
    """Print an error's message and return its exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_BUG
    if isinstance(error, OSError) and is_broken_pipe(error):
        abandon_stdout()
        return EXIT_READER_GONE
    code, message = _message(error)
    try:
        finish_stdout()
    except OSError:
        abandon_stdout()
    with contextlib.suppress(OSError):
        echo("\n".join([message, *getattr(error, "__notes__", [])]), err=True)
    return code


def _message(error: BaseException) -> tuple[int, str]:
    # A library may turn an interruption into an error of its own.
    if stopping() or isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        return EXIT_INTERRUPTED, f"\n{MESSAGE}"
    if isinstance(error, click.ClickException):
        shown = io.StringIO()
        error.show(file=shown)
        return error.exit_code, shown.getvalue().rstrip("\n")
    if isinstance(error, Phi3QuantError):
        comparable = not isinstance(error, NotComparableError)
        return (
            EXIT_BAD_INPUT if comparable else EXIT_NOT_COMPARABLE,
            f"Error: {error.command_line_message}",
        )
    if _lacks_memory(error):
        return EXIT_BAD_INPUT, (
            "Error: memory ran out; nothing was left half-written. Close other programs, raise "
            "this process's limit, or use --max-memory, fewer --threads or a shorter --seq-len"
        )
    if isinstance(error, OSError):
        return EXIT_BAD_INPUT, f"Error: {_os_error(error)}"
    return EXIT_BUG, (
        f"Error: {type(error).__name__}: {error}\nThis is a bug in phi3quant. Please report it "
        f"with the traceback, which {TRACEBACK}=1 in the environment shows."
    )


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return isinstance(error, Exception) and _NO_MEMORY.search(str(error)) is not None


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"the system refused to read or write: {reason}"
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return f"{name}: {reason}"
