"""Safe output to stdout and stderr, in any encoding; the only module that prints.

Names and messages may hold control characters or commands for a CI system; none reaches a terminal
unchanged.
"""

import codecs
import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from phi3quant.visible import in_json, in_log, in_table

if TYPE_CHECKING:
    from rich.console import Console

_ENCODING_ERRORS = "phi3quant.readable"
# For terminals that aren't UTF-8: the characters that tables and messages use.
_PLAIN = {
    "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
    "\N{EN DASH}": "-",
    "\N{NO-BREAK SPACE}": " ",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{DOUBLE VERTICAL LINE}": "||",
    "\N{HORIZONTAL ELLIPSIS}": "...",
}
# Cells stay on one line, and a space in them may be looked for with grep.
_IN_CELLS = str.maketrans("\n\t\N{NO-BREAK SPACE}", "   ")
# Where a terminal states fewer columns, its lines wrap.
_NARROWEST = 20


def echo(text: str = "", *, err: bool = False) -> None:
    """Print lines, safe for terminals and logs."""
    _write(f"{in_log(text)}\n", err=err)


def note(text: str) -> None:
    """Print lines on stderr."""
    echo(text, err=True)


def echo_command(line: str) -> None:
    """Print a workflow command for GitHub Actions, unchanged, on stderr, which it reads too."""
    _write(f"{line}\n", err=True)


def live_console() -> "Console":
    """Console for a table on stderr that is updated in place."""
    from rich.console import Console  # noqa: PLC0415 - slow to load, and rarely needed

    return Console(file=sys.stderr)


def stream_text() -> Callable[[str], None]:
    """A function that prints a text piece by piece, as safely as ``echo`` prints it whole."""
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


def width(default: int) -> int:
    """Columns of stdout.

    COLUMNS in the environment counts most, then the terminal.

    Args:
        default: for files, pipes and terminals without a size.
    """
    wanted = os.environ.get("COLUMNS", "")
    columns = int(wanted) if wanted.isdecimal() else _columns(sys.stdout)
    return max(columns, _NARROWEST) if columns else default


def progress_width() -> int:
    """Columns of the terminal on stderr; 0 where no bar can be drawn.

    Files and pipes have none, some terminals of CI jobs have no size, and a dumb terminal can't go
    back to the start of a line.
    """
    return 0 if os.environ.get("TERM") in {"dumb", "unknown"} else _columns(sys.stderr)


def cell(text: str) -> str:
    """A line of safe text with the characters that stdout will show, so that it can be measured."""
    safe = in_table(text).translate(_IN_CELLS)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return safe.encode(encoding, _ENCODING_ERRORS).decode(encoding)


def prepare_streams() -> None:
    """Make stdout and stderr accept any character: they write a similar one, or an escape."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors=_ENCODING_ERRORS)  # type: ignore[union-attr]


def finish_stdout() -> None:
    """Flush stdout.

    Raises:
        OSError: stdout can't be written.
    """
    with contextlib.suppress(AttributeError, ValueError):  # it is closed
        sys.stdout.flush()


def abandon_stdout() -> None:
    """Discard buffered output after stdout failed."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of stdout has ended, as ``head`` does."""
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
    """Add the stream's name to an error of writing to it."""
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


codecs.register_error(_ENCODING_ERRORS, _readable)


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8", "surrogatepass" if _is_utf8(stream) else "strict")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _columns(stream: TextIO | None) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream else 0
    except (AttributeError, OSError, ValueError):  # not a terminal, or closed
        return 0


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("_", "-") in {"utf-8", "utf8"}
