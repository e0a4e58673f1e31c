"""Mixtures of calibration texts: their sources, their shares, and the windows that each gives."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from calib.corpus import BUNDLED
from phi3quant.errors import CorpusError

SELF = "self"
"""Source of text that the model itself writes; ``self:512`` is 512 windows of it."""
WRITTEN_WINDOWS = 128
"""Number of windows of ``self`` without a number."""

# Bounds memory; far more text than tuning can use.
_MOST_WRITTEN = 100_000


@dataclass(frozen=True)
class TextShare:
    """A text and its share of a mixture.

    Attributes:
        source: file, folder, bundled corpus, data set (see calib.corpus.load_corpus) or ``self``.
        share: positive weight, relative to the other texts of the mixture.

    Raises:
        CorpusError: the number of windows of ``self`` isn't a number, or is out of range.
    """

    source: str | Path
    share: float = 1.0

    def __post_init__(self) -> None:
        name, colon, number = str(self.source).partition(":")
        if name != SELF or not colon:
            return
        if not (number.isascii() and number.isdecimal() and 1 <= int(number[:9]) <= _MOST_WRITTEN):
            raise CorpusError(
                f"{number!r} in {self.source} is not a number of windows; write a number from 1 to "
                f"{_MOST_WRITTEN}, such as {SELF}:512"
            )

    @property
    def written_windows(self) -> int | None:
        """Number of windows that the model writes; None for other texts."""
        name, _, number = str(self.source).partition(":")
        if name != SELF:
            return None
        return int(number) if number else WRITTEN_WINDOWS

    @property
    def identity(self) -> str:
        """Text that is equal for two spellings of one source."""
        if self.written_windows is not None:
            return SELF
        name = str(self.source)
        return name if name in BUNDLED or name.startswith("hf:") else os.path.realpath(name)


def text_share(entry: str | Path) -> TextShare:
    """Read a text with an optional share, such as ``chats.jsonl=2``.

    A string that is the path of an existing file or folder is a path, even if it contains ``=``. A
    ``Path`` always is.

    Raises:
        CorpusError: the share isn't a positive number, or see TextShare.
    """
    if isinstance(entry, Path) or os.path.exists(entry):  # noqa: PTH110 - see calib.corpus
        return TextShare(entry)
    source, equals, number = entry.rpartition("=")
    if not (equals and source):
        return TextShare(entry)
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise CorpusError(
            f"there is no text {entry}, and {number!r} is not a share of {source}; a share is a "
            f"positive number, such as {source}=2"
        )
    return TextShare(source, share)


def text_shares(entries: Sequence[str | Path]) -> tuple[TextShare, ...]:
    """Read the texts of a mixture.

    Raises:
        CorpusError: as text_share, or a text is listed twice.
    """
    shares = tuple(map(text_share, entries))
    listed: set[str] = set()
    for each in shares:
        if each.identity in listed:
            raise CorpusError(
                f"the text {each.source} is listed twice; list it once, with a larger share"
            )
        listed.add(each.identity)
    return shares


def portions(available: Sequence[int], shares: Sequence[float], total: int) -> list[int]:
    """Number of windows from each text, in proportion to the shares.

    A text that has fewer windows than its share gives all of them; the others fill the gap.

    Args:
        available: number of windows of each text.
        shares: positive share of each text.
        total: number of windows to choose; with fewer windows in all texts, all are chosen.
    """
    # Fractions, so that equal shares never differ by rounding.
    weights = dict(enumerate(map(Fraction, shares)))
    counts = [0] * len(available)
    rest = min(total, sum(available))
    while exhausted := [
        index
        for index, weight in weights.items()
        if available[index] * sum(weights.values()) <= rest * weight
    ]:
        for index in exhausted:
            counts[index] = available[index]
            rest -= available[index]
            del weights[index]
    quotas = {index: rest * weight / sum(weights.values()) for index, weight in weights.items()}
    for index, quota in quotas.items():
        counts[index] = math.floor(quota)
    missing = rest - sum(map(math.floor, quotas.values()))
    # The largest remainders are rounded up.
    by_remainder = sorted(quotas, key=lambda index: math.floor(quotas[index]) - quotas[index])
    for index in by_remainder[:missing]:
        counts[index] += 1
    return counts
