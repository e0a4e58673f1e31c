"""Sizes, counts and choices in words, with one unit of size and one plural rule for all output."""

from collections.abc import Iterable


def size(nbytes: float) -> str:
    """Bytes of memory or disk in decimal units: 1 GB is 10^9 bytes.

    Examples:
        >>> size(2_175_438_336), size(3_430_000), size(512)
        ('2.18 GB', '3.43 MB', '512 bytes')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.2f} {name}"
    return count(round(nbytes), "byte")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, in the plural where that is right.

    Examples:
        >>> count(1, "file"), count(2, "file"), count(1022, "token")
        ('1 file', '2 files', '1,022 tokens')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def alternatives(choices: Iterable[object]) -> str:
    """Choices as a list in words.

    Examples:
        >>> alternatives((4, 8)), alternatives([16, 32, "row"]), alternatives([4])
        ('4 or 8', '16, 32 or row', '4')
    """
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last
