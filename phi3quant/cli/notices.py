"""Notes of the library on stderr, each of them once in a command."""

import logging

import click

from phi3quant.cli import terminal
from phi3quant.notices import LOGGER


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        context = click.get_current_context(silent=True)
        quiet = context is not None and context.params.get("quiet")
        if line not in self._shown and not quiet:
            self._shown.add(line)
            terminal.note(f"note: {line}")


def show_notices() -> None:
    """Print what the library has to say from now on, for the command that begins."""
    for handler in [each for each in LOGGER.handlers if isinstance(each, _Handler)]:
        LOGGER.removeHandler(handler)
    LOGGER.addHandler(_Handler())
