"""Table at the bottom of the terminal, which is updated in place."""

from collections.abc import Mapping

from rich.live import Live
from rich.table import Table
from rich.text import Text

from phi3quant.cli import terminal


class LiveTable:
    """Table of names with a text that changes; other lines on stderr appear above it.

    Args:
        headings: headings of the two columns.
    """

    def __init__(self, *headings: str) -> None:
        self._headings = headings
        self._live: Live | None = None

    def show(self, rows: Mapping[str, str]) -> None:
        """Show rows; without rows, remove the table."""
        if not rows:
            if self._live is not None:
                self._live.stop()
                self._live = None
            return
        if self._live is None:
            self._live = Live(console=terminal.live_console(), transient=True, auto_refresh=False)
            self._live.start()
        table = Table(*self._headings, box=None, pad_edge=False)
        for name, text in rows.items():
            table.add_row(Text(terminal.cell(name)), Text(terminal.cell(text)))
        self._live.update(table, refresh=True)
