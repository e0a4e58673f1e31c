"""Look of each variant in the figures, and the legend."""

from dataclasses import dataclass

from phi3quant.reporting.drawing import SERIES
from phi3quant.reporting.report import Report

_MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
"""Markers of matplotlib, each with the character for it in legends."""
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (9, 2)))


@dataclass(frozen=True)
class Series:
    """Look of a variant in figures.

    Attributes:
        index: position among the report's artifacts.
        name: of the variant.
    """

    index: int
    name: str

    @property
    def colour_index(self) -> int:
        """Number of its colour on the page."""
        return self.index % len(SERIES)

    @property
    def symbol(self) -> str:
        """Its marker as a character."""
        return _MARKERS[self.marker]

    @property
    def colour(self) -> str:
        """Placeholder of its colour."""
        return SERIES[self.colour_index]

    @property
    def marker(self) -> str:
        """Marker of matplotlib; another one when the colours start again."""
        return list(_MARKERS)[(self.index + self.index // len(_MARKERS)) % len(_MARKERS)]

    @property
    def dashes(self) -> object:
        """Line style of matplotlib."""
        return _DASHES[self.index % len(_DASHES)]


def legend(report: Report) -> list[Series]:
    """Series of the report's artifacts, in their order."""
    return [Series(index, row.name) for index, row in enumerate(report.artifacts)]
