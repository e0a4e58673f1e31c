"""Tables and lines that fit the terminal: figures are never cut, names at most in the middle.

A table that is too wide becomes a block of ``heading  value`` lines for each row.
"""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len, set_cell_size

from phi3quant.cli import terminal
from phi3quant.cli.terminal import echo

WIDTH = 110
"""Columns of tables in files and pipes, which have no width."""
_GAP = "  "
# Columns that a shortened name or a wrapped text keeps at least.
_SHORTEST = 12
_CUT = "..."
# Columns of running text next to other text.
_READABLE = 36

Rows = Sequence[Sequence[str]]


def print_table(
    headings: Sequence[str], rows: Rows, *, words: int = 1, width: int | None = None
) -> None:
    """Print a table, or a block of lines for each row where it doesn't fit.

    Args:
        headings: one for each column.
        rows: names in the first column; empty cells are left out of blocks.
        words: number of columns, from the left, that hold text; all others hold figures.
        width: columns to fill; None: the terminal's.
    """
    room = width or terminal.width(WIDTH)
    cells = [[terminal.cell(text) for text in row] for row in (headings, *rows)]
    widths = _fitted(cells, words, room)
    echo("\n".join(_blocks(cells, room) if widths is None else _table(cells, words, widths)))


def print_text(text: str, *, indent: str = "", width: int | None = None) -> None:
    """Print a paragraph, wrapped at spaces; later lines begin with ``indent``."""
    echo("\n".join(_wrapped(terminal.cell(text), width or terminal.width(WIDTH), indent)))


def print_values(rows: Sequence[tuple[str, str]]) -> None:
    """Print labels with their values, which wrap under themselves.

    In files and pipes every value stays on its line.
    """
    room = terminal.width(0)
    column = max((cell_len(terminal.cell(label)) for label, _ in rows), default=0)
    for label, value in rows:
        echo("\n".join(_labelled(terminal.cell(label), terminal.cell(value), column, room)))


def print_side_by_side(texts: Sequence[tuple[str, str]]) -> None:
    """Print texts under their titles in columns, or one after another where columns are narrow."""
    room = terminal.width(WIDTH)
    size = (room - len(_GAP) * (len(texts) - 1)) // len(texts)
    if size < _READABLE:
        for title, text in texts:
            echo(terminal.cell(title))
            echo(f"{text}\n")
        return
    titles = [shortened(terminal.cell(title), size) for title, _ in texts]
    columns = [_lines(text, size) for _, text in texts]
    cells = [titles, *(list(row) for row in zip_longest(*columns, fillvalue=""))]
    echo("\n".join(_table(cells, len(texts), [size] * len(texts))))


def shortened(text: str, width: int) -> str:
    """A text with its middle left out, if it is longer than ``width`` columns.

    Examples:
        >>> shortened("./Phi-3-mini-4k-instruct", 15)
        './Phi-...struct'
    """
    if cell_len(text) <= width:
        return text
    kept = max(width - len(_CUT), 0)
    last = cell_len(text) - kept // 2
    end = next((text[at:] for at in range(len(text)) if cell_len(text[:at]) >= last), "")
    return f"{set_cell_size(text, kept - kept // 2)}{_CUT}{end}"


def _fitted(cells: Rows, words: int, room: int) -> list[int] | None:
    """Widths of the columns of a table; None if it doesn't fit."""
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    if excess > 0 and words > 1:
        longest = max(cell_len(word) for row in cells for word in row[words - 1].split() or [""])
        taken = min(excess, max(widths[words - 1] - max(longest, _SHORTEST), 0))
        widths[words - 1] -= taken
        excess -= taken
    if excess > 0:
        names = [row[0] for row in cells]
        widths[0] -= excess
        short = [shortened(name, widths[0]) for name in names]
        if widths[0] < _SHORTEST or len(set(short)) < len(set(names)):
            return None
    return widths


def _table(cells: Rows, words: int, widths: Sequence[int]) -> Iterator[str]:
    rule = terminal.cell("\N{BOX DRAWINGS LIGHT HORIZONTAL}")
    for number, row in enumerate(cells):
        columns = [
            [shortened(text, size)] if at == 0 else _wrapped(text, size)
            for at, (text, size) in enumerate(zip(row, widths, strict=True))
        ]
        for line in range(max(map(len, columns))):
            texts = [column[line] if line < len(column) else "" for column in columns]
            padded = (
                _padded(text, size, left=at < words)
                for at, (text, size) in enumerate(zip(texts, widths, strict=True))
            )
            yield _GAP.join(padded).rstrip()
        if number == 0:
            yield rule * (sum(widths) + len(_GAP) * (len(widths) - 1))


def _blocks(cells: Rows, room: int) -> Iterator[str]:
    headings, *rows = cells
    column = max(map(cell_len, headings[1:]))
    for number, (name, *values) in enumerate(rows):
        if number:
            yield ""
        yield shortened(f"{headings[0]} {name}" if name.isdecimal() else name, room)
        for heading, value in zip(headings[1:], values, strict=True):
            if value:
                indented = _labelled(heading, value, column, room - len(_GAP))
                yield from (f"{_GAP}{line}" for line in indented)


def _labelled(label: str, value: str, column: int, room: int) -> list[str]:
    start = _padded(label, column, left=True) + _GAP
    if not room:
        return [start + value]
    first, *others = _wrapped(value, max(room - cell_len(start), 1))
    return [start + first, *(" " * cell_len(start) + line for line in others)]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most ``width`` columns; longer words stay whole."""
    lines = textwrap.wrap(
        text,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [""]


def _lines(text: str, width: int) -> list[str]:
    """The lines of a text, each wrapped."""
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(terminal.cell(line), width, break_on_hyphens=False) or [""]
    ]


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cell_len(text))
    return text + space if left else space + text
