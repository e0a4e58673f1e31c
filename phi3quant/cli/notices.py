"""Notes of the library on stderr, each of them once in a command."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import click
from tqdm import tqdm

from phi3quant.cli import terminal
from phi3quant.notices import LOGGER

QUIET = "phi3quant.quiet"
"""Key of the context's shared data: whether notes are left out."""


class _Handler(logging.Handler):
    def __init__(self, shared: Mapping[str, Any]) -> None:
        super().__init__()
        self._shared = shared
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line not in self._shown and not self._shared.get(QUIET):
            self._shown.add(line)
            # A progress bar steps aside.
            with tqdm.external_write_mode(file=sys.stderr):
                terminal.note(line if record.levelno == logging.INFO else f"note: {line}")


def show_notices() -> None:
    """Print the library's notes for the command that begins."""
    for handler in [each for each in LOGGER.handlers if isinstance(each, _Handler)]:
        LOGGER.removeHandler(handler)
    # Shared by all contexts of a command, and there for threads too.
    LOGGER.addHandler(_Handler(click.get_current_context().meta))
    LOGGER.setLevel(logging.INFO)
