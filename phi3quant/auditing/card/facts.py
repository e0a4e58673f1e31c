"""Labelled values of a card: rows of tables, and lines such as "Layers: 32"."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from phi3quant.auditing.card.card import Card, Line

_LABELLED = re.compile(r"^\s{0,8}(?:[-*+]\s+)?[*_]{0,2}([A-Za-z][\w ./()&-]{0,60}?)[*_]{0,2}\s?:")
_RULE = re.compile(r"^[\s|:-]*$")


@dataclass(frozen=True)
class Fact:
    """A labelled value.

    Attributes:
        label: lower case, without punctuation around it.
        value: text next to it.
        place: citation.
    """

    label: str
    value: str
    place: str


def facts(card: Card) -> list[Fact]:
    """Labelled values of a card, outside of code."""
    gathered: list[Fact] = []
    lines = [line for line in card.lines if not line.code]
    for is_table, group in groupby(lines, lambda line: line.text.lstrip().startswith("|")):
        if is_table:
            gathered += _table(list(group))
        else:
            gathered += [fact for line in group for fact in _labelled(line)]
    return gathered


def _labelled(line: Line) -> Iterator[Fact]:
    match = _LABELLED.match(line.text)
    if match:
        value = line.text[match.end() :].strip(" *_")
        if value:
            yield Fact(_clean(match[1]), value, line.place)


def _table(lines: Sequence[Line]) -> Iterator[Fact]:
    """Rows of two cells, and the single row of a table under its headings."""
    rows = [
        (line, [cell.strip() for cell in line.text.strip().strip("|").split("|")])
        for line in lines
        if not _RULE.match(line.text)
    ]
    if len(rows) == 2 and len(rows[0][1]) == len(rows[1][1]) > 2:
        (_, headings), (line, cells) = rows
        yield from (
            Fact(_clean(label), value, line.place)
            for label, value in zip(headings, cells, strict=True)
        )
        return
    for line, cells in rows:
        if len(cells) == 2:
            yield from _row(line, *cells)


def _row(line: Line, label: str, value: str) -> Iterator[Fact]:
    """A row, or several for a label such as "layers, hidden size" with as many values."""
    labels, values = label.split(", "), value.split(", ")
    if len(labels) > 1 and len(labels) == len(values):
        pairs = list(zip(labels, values, strict=True))
    else:
        pairs = [(label, value)]
    yield from (Fact(_clean(each), text, line.place) for each, text in pairs)


def _clean(label: str) -> str:
    return " ".join(label.strip(" *_`:").lower().replace("_", " ").split())
