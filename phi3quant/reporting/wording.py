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
    known = number(value)
    return UNKNOWN if known is None else f"{known:.4f}"


def change(value: float) -> str:
    """A ratio as a signed change in percent.

    Examples:
        >>> change(1.0437).replace("\N{NO-BREAK SPACE}", " ")
        '+4.4 %'
    """
    return f"{_percent(value, _digits_of_change(value))}{_GAP}%"


def change_interval(ends: tuple[float, float]) -> str:
    """An interval of ratios as changes in percent, both with as many digits."""
    digits = max(map(_digits_of_change, ends))
    low, high = (_percent(end, digits) for end in ends)
    return f"{low} to {high}{_GAP}%"


def _percent(value: float, digits: int) -> str:
    # Adding zero takes the sign from a negative zero.
    return f"{round(100 * (value - 1), digits) + 0.0:+,.{digits}f}"


def _digits_of_change(value: float) -> int:
    """Decimals that leave about two significant digits of a change in percent."""
    size = abs(100 * (value - 1))
    return 0 if size >= 99.95 else 1 if size >= 0.995 else 2


def ends(value: object, windows: object) -> str:
    """A confidence interval of a ratio, if the number of windows allows one."""
    known = interval(value)
    if too_few(number(windows)):
        return TOO_FEW
    return UNKNOWN if known is None else f"{known[0]:.4f}-{known[1]:.4f}"


def too_few(windows: float | None) -> bool:
    """Whether windows are too few for an interval; None: their number is unknown."""
    return windows is not None and windows < FEW_WINDOWS


def share(value: object) -> str:
    """A share in percent."""
    known = number(value)
    return UNKNOWN if known is None else f"{100 * known:.1f}{_GAP}%"


def whole_share(value: float) -> str:
    """A share in whole percent."""
    return f"{100 * value:.0f}{_GAP}%"


def short(value: object) -> str:
    """A figure of any magnitude, such as a divergence, with three digits."""
    return _significant(value, 3)


def perplexity(value: object) -> str:
    """A perplexity."""
    return _significant(value, 4)


def token(text: str) -> str:
    """A token with its spaces and line breaks made visible."""
    return text.replace(" ", "␣").replace("\n", "↵") or "(empty)"


def _significant(value: object, count: int) -> str:
    known = number(value)
    return UNKNOWN if known is None else f"{known:#.{count}g}".removesuffix(".")
