"""The one way to stdout and stderr: text is made safe, JSON stays JSON, and encodings don't matter.

Commands print nothing by themselves, so that no name or message reaches a terminal as it came.
"""

import codecs
import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from phi3quant.visible import in_json, in_log, in_table

_ENCODING_ERRORS = "phi3quant.readable"
# For terminals that aren't UTF-8: the characters that tables and messages use.
_PLAIN = {
    "\N{EN DASH}": "-",
    "\N{NO-BREAK SPACE}": " ",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{DOUBLE VERTICAL LINE}": "||",
    "\N{HORIZONTAL ELLIPSIS}": "...",
}


def echo(text: str = "", *, err: bool = False) -> None:
    """Print lines, safe for terminals and logs."""
    _write(f"{in_log(text)}\n", err=err)


def note(text: str) -> None:
    """Print lines on stderr."""
    echo(text, err=True)


def echo_command(line: str) -> None:
    """Print a workflow command for GitHub Actions, which reads stderr too, as it is."""
    _write(f"{line}\n", err=True)


def stream_text() -> Callable[[str], None]:
    """A function that prints a text piece by piece, as ``echo`` prints the whole."""
    line, shown = "", 0

    def show(piece: str) -> None:
        nonlocal line, shown
        line += piece
        # A carriage return waits for what follows it.
        safe = in_log(line.removesuffix("\r"))
        _write(safe[shown:])
        line = line.rpartition("\n")[2]
        shown = len(in_log(line.removesuffix("\r")))

    return show


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout; numbers that aren't finite become null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    if not _encodes(sys.stdout, text):
        text = json.dumps(finite(value), indent=2, allow_nan=False)
    _write(f"{in_json(text)}\n")


def finite(value: Any) -> Any:
    """A plain value with null in place of NaN and infinity, which JSON can't hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class _Console(Console):
    """A console whose every text is made safe; rich reads no markup in it."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Text of a cell, a title or a line."""
        return super().render_str(in_table(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, and name the stream where that fails."""
        with _named("standard output"):
            super().print(*objects, **options)


def console(width: int) -> Console:
    """A console for tables on stdout.

    Args:
        width: where stdout is not a terminal that has a width, in columns.
    """
    return _Console(
        width=None if sys.stdout.isatty() else width, highlight=False, markup=False, emoji=False
    )


def plain(text: str) -> Text:
    """Safe text as rich's, for places that take no strings."""
    return Text(in_table(text))


def prepare_streams() -> None:
    """Let stdout and stderr write any character: the nearest one, or its escape."""
    codecs.register_error(_ENCODING_ERRORS, _readable)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors=_ENCODING_ERRORS)  # type: ignore[union-attr]


def finish_stdout() -> None:
    """Write what is buffered.

    Raises:
        OSError: stdout can't take it.
    """
    with contextlib.suppress(AttributeError, ValueError):  # it is closed
        sys.stdout.flush()


def abandon_stdout() -> None:
    """Send what is still buffered nowhere, where stdout can't take it."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of stdout has gone, as ``head`` does."""
    return error.errno == errno.EPIPE


def _write(text: str, *, err: bool = False) -> None:
    # Not click's echo, which writes UTF-8 to streams that ask for ASCII.
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # closed by whoever started the program
        with _named("standard error" if err else "standard output"):
            stream.write(text)
            stream.flush()


@contextlib.contextmanager
def _named(stream: str) -> Iterator[None]:
    """Name the stream in an error of writing to it."""
    try:
        yield
    except OSError as error:
        error.filename = stream
        raise


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escaped = (
        _PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in missing
    )
    return "".join(escaped), error.end


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8", "surrogatepass" if _is_utf8(stream) else "strict")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("_", "-") in {"utf-8", "utf8"}
