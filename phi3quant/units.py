"""Sizes, counts and choices in words, with one unit of size and one plural rule for all output."""

import difflib
import re
from collections.abc import Iterable, Mapping

_UNITS: Mapping[str, int] = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMG]?|[KMG]I)B?")


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


def parsed_size(text: str) -> int | None:
    """Bytes of a size as ``size`` and people write it; None if it isn't one.

    Examples:
        >>> parsed_size("2.2GB"), parsed_size("4 gib"), parsed_size("many")
        (2200000000, 4294967296, None)
    """
    match = _SIZE.fullmatch(text.strip().upper())
    return round(float(match[1]) * _UNITS[match[2]]) if match else None


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


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """Message about a name that isn't among the known ones; it suggests the closest.

    Examples:
        >>> unknown("method", "agw", ["rtn", "awq"])
        "there is no method 'agw'. Did you mean awq? Choose from rtn, awq."
    """
    known = list(names)
    spelled = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    hint = f" Did you mean {spelled[near[0]]}?" if near else ""
    return f"there is no {kind} {name!r}.{hint} Choose from {', '.join(known)}."
