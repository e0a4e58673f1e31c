"""Figures in words, the same on the page and in the terminal; and text that can do no harm."""

import re

from phi3quant.reporting.stated import interval, number

UNKNOWN = "\N{EN DASH}"
_GAP = "\N{NO-BREAK SPACE}"
# Control characters, lone surrogates and noncharacters; and what turns the direction of text.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def visible(text: str) -> str:
    """Text whose every character is one to be read: terminals and browsers obey none of it."""
    return _UNSEEN.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Text without line breaks and runs of spaces."""
    return " ".join(text.split())


def size(nbytes: float) -> str:
    """Bytes in decimal units."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.2f}{_GAP}{name}"
    return f"{nbytes:.0f}{_GAP}bytes"


def ratio(value: object) -> str:
    """A ratio of perplexities."""
    found = number(value)
    return UNKNOWN if found is None else f"{found:.4f}"


def ends(value: object) -> str:
    """A confidence interval of a ratio."""
    found = interval(value)
    return UNKNOWN if found is None else f"{found[0]:.4f}-{found[1]:.4f}"


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
