"""Findings of an audit: points of evidence, and what they add up to."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from phi3quant.visible import one_line

_QUOTED = 60
_MOST = 12


class Standing(StrEnum):
    """Result of a point or of a criterion; a point is never PARTLY."""

    SHOWN = "shown"
    PARTLY = "partly shown"
    CONTRADICTED = "contradicted"
    NOT_SHOWN = "not shown"


SIGNS = {Standing.SHOWN: "+", Standing.CONTRADICTED: "!", Standing.NOT_SHOWN: "?"}
"""Signs of points in text."""


@dataclass(frozen=True)
class Point:
    """One piece of evidence.

    Attributes:
        standing: whether the statement holds, is contradicted, or is missing.
        place: file, key or line of the evidence.
        text: the values that were compared.
    """

    standing: Standing
    place: str
    text: str

    @property
    def line(self) -> str:
        """The point for people: its sign, its place and its text."""
        place = f"{self.place}: " if self.place else ""
        return f"{SIGNS[self.standing]} {place}{self.text}"


@dataclass(frozen=True)
class Finding:
    """A criterion with its evidence.

    Attributes:
        name: the criterion.
        points: evidence, contradictions first.
    """

    name: str
    points: Sequence[Point]

    @property
    def standing(self) -> Standing:
        """Contradicted by any point, shown by all, partly shown by some, or not shown."""
        standings = {point.standing for point in self.points}
        if Standing.CONTRADICTED in standings:
            return Standing.CONTRADICTED
        if Standing.SHOWN not in standings:
            return Standing.NOT_SHOWN
        return Standing.PARTLY if Standing.NOT_SHOWN in standings else Standing.SHOWN

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "standing": self.standing.value,
            "points": [asdict(point) for point in self.points],
        }


def finding(name: str, points: Iterable[Point]) -> Finding:
    """A finding with its points in the order contradicted, shown, not shown.

    Of many points with the same standing, as a card with thousands of lines may cause, the first
    ones are kept and the others counted.
    """
    gathered = list(points)
    kept: list[Point] = []
    for standing in (Standing.CONTRADICTED, Standing.SHOWN, Standing.NOT_SHOWN):
        alike = [point for point in gathered if point.standing is standing]
        kept += alike[:_MOST]
        if len(alike) > _MOST:
            kept.append(Point(standing, "", f"and {len(alike) - _MOST:,} more"))
    return Finding(name, kept)


def shown(place: str, text: str) -> Point:
    """A point that the files show."""
    return Point(Standing.SHOWN, place, text)


def contradicted(place: str, text: str) -> Point:
    """A point that the files contradict."""
    return Point(Standing.CONTRADICTED, place, text)


def not_shown(place: str, text: str) -> Point:
    """A point without evidence for or against it."""
    return Point(Standing.NOT_SHOWN, place, text)


def judged(place: str, text: str, *, holds: bool) -> Point:
    """A point that was compared with the files."""
    return shown(place, text) if holds else contradicted(place, text)


def quoted(value: object, limit: int = _QUOTED) -> str:
    r"""A value from a file, visible, on one line and shortened to ``limit`` characters.

    Examples:
        >>> quoted("two\nlines\x1b")
        'two lines�'
    """
    text = one_line(str(value))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
