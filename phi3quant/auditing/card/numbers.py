"""Numbers as cards state them: rounded, with units and suffixes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SUFFIXES = {
    "k": (1e3, 1024.0),
    "thousand": (1e3,),
    "m": (1e6,),
    "million": (1e6,),
    "b": (1e9,),
    "billion": (1e9,),
    "t": (1e12,),
    "trillion": (1e12,),
}
"""Factors of suffixes; K may be either in a context's length."""
_BYTES = {
    "kb": (1e3, 1024.0),
    "mb": (1e6, 1024.0**2),
    "mib": (1024.0**2,),
    "gb": (1e9, 1024.0**3),
    "gib": (1024.0**3,),
    "tb": (1e12, 1024.0**4),
    "tib": (1024.0**4,),
}
"""Factors of sizes; many cards write GB for GiB."""
_DIGITS = r"(?<![\w.,])(?P<digits>\d[\d,]{0,24}(?:\.\d{1,9})?)"
NUMBER = _DIGITS + r"(?:[ -]?(?P<suffix>[KkMmBbTt]|thousand|million|billion|trillion))?(?![\w])"
"""Pattern of a number with an optional suffix."""
_NUMBER = re.compile(NUMBER)
_SIZE = re.compile(_DIGITS + r" ?(?P<suffix>[KMGT]i?B)(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class StatedNumber:
    """A number of a text.

    Attributes:
        text: as it is written.
        digits: value before the suffix.
        unit: value of its last significant digit; 0 for a number that is exact.
        factors: possible values of its suffix.
    """

    text: str
    digits: float
    unit: float
    factors: tuple[float, ...] = (1.0,)

    @property
    def values(self) -> tuple[float, ...]:
        """Values that it may stand for."""
        return tuple(self.digits * factor for factor in self.factors)

    def agrees(self, actual: float, slack: float = 0.0) -> bool:
        """Whether it is ``actual``, as far as it is rounded.

        Args:
            actual: number to compare with.
            slack: further relative difference that is allowed for rounded numbers.
        """
        rounded = self.unit > 0
        return any(
            abs(self.digits * factor - actual)
            <= max(self.unit / 2 * factor, slack * actual if rounded else 0.0)
            for factor in self.factors
        )


def numbers(text: str) -> Iterator[StatedNumber]:
    """Numbers of a text with their suffixes.

    Examples:
        >>> [number.values for number in numbers("3.8B parameters, 4K tokens, 32,064 rows")]
        [(3800000000.0,), (4000.0, 4096.0), (32064.0,)]
    """
    return (stated_number(match) for match in _NUMBER.finditer(text))


def sizes(text: str) -> Iterator[StatedNumber]:
    """Sizes in bytes in a text, such as 7.6 GB."""
    return (stated_number(match) for match in _SIZE.finditer(text))


def stated_number(match: re.Match[str]) -> StatedNumber:
    """The number of a match of NUMBER."""
    plain = match["digits"].replace(",", "")
    suffix = (match["suffix"] or "").lower()
    factors = _BYTES.get(suffix) or _SUFFIXES.get(suffix, (1.0,))
    fraction = plain.partition(".")[2]
    if suffix:
        unit = 10.0 ** -len(fraction)
    else:
        zeros = len(plain) - len(plain.rstrip("0"))
        unit = 10.0 ** -len(fraction) if fraction else 10.0**zeros if zeros > 2 else 0.0
    return StatedNumber(match[0].strip(), float(plain), unit, factors)
