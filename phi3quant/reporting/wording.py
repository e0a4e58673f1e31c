"""Figures in words, the same on the page and in the terminal."""

from phi3quant import units
from phi3quant.evaluation.paired_statistics import FEW_WINDOWS
from phi3quant.reporting.stated import interval, number

UNKNOWN = "\N{EN DASH}"
TOO_FEW = "too few windows"
_GAP = "\N{NO-BREAK SPACE}"


def size(nbytes: float) -> str:
    """Bytes in decimal units."""
    return units.size(nbytes).replace(" ", _GAP)


def ratio(value: object) -> str:
    """A ratio of perplexities."""
    found = number(value)
    return UNKNOWN if found is None else f"{found:.4f}"


def ends(value: object, windows: object) -> str:
    """A confidence interval of a ratio from some number of windows, unless they are too few."""
    found, count = interval(value), number(windows)
    if found is None:
        return UNKNOWN
    return TOO_FEW if too_few(count) else f"{found[0]:.4f}-{found[1]:.4f}"


def too_few(windows: float | None) -> bool:
    """Whether an interval is of too few windows to be shown; None: their number is unknown."""
    return windows is not None and windows < FEW_WINDOWS


def share(value: object) -> str:
    """A share in percent."""
    found = number(value)
    return UNKNOWN if found is None else f"{100 * found:.1f}{_GAP}%"


def short(value: object) -> str:
    """A figure of no fixed size, such as a divergence: three digits of it."""
    return _digits(value, 3)


def perplexity(value: object) -> str:
    """A perplexity."""
    return _digits(value, 4)


def _digits(value: object, count: int) -> str:
    found = number(value)
    return UNKNOWN if found is None else f"{found:#.{count}g}".removesuffix(".")
