"""Numbers of windows of each text that a run learns from, and that it holds back to judge."""

from collections.abc import Callable, Sequence
from itertools import count as count_from

from calib.mixture import TextShare, portions

# Windows per window that is held back, and the largest number of those.
_HELD_BACK, _MOST_HELD_BACK = 8, 8

ENOUGH_TO_JUDGE = _HELD_BACK * _MOST_HELD_BACK
"""Windows of which the largest number is held back."""

Needed = Callable[[Sequence[int]], Sequence[int]]
"""Function from the numbers of windows that the texts have to the numbers that are used."""


def held_back_windows(windows: int) -> int:
    """Number of windows that judge instead of being learned from, out of ``windows``."""
    return max(1, min(windows // _HELD_BACK, _MOST_HELD_BACK))


def calibrated_on(shares: Sequence[TextShare], samples: int) -> Needed:
    """Windows that codes are calibrated on.

    Args:
        shares: texts with their shares.
        samples: largest number of windows.
    """
    return lambda available: portions(available, [each.share for each in shares], samples)


def tuned_on(shares: Sequence[TextShare], limit: int, samples: int) -> Needed:
    """Windows that are trained on or held back.

    Args:
        shares: texts with their shares.
        limit: largest number of windows to train on.
        samples: windows that codes were calibrated on, which a single text provides too.
    """
    least = samples if len(shares) == 1 else 0

    def count(available: Sequence[int]) -> list[int]:
        to_train = [each - held_back_windows(each) for each in available]
        counts = portions(to_train, [each.share for each in shares], limit)
        return [
            _with_held_back(max(number, least), each)
            for number, each in zip(counts, available, strict=True)
        ]

    return count


def _with_held_back(number: int, available: int) -> int:
    """The least number of windows that leaves ``number`` to train on; all if none does."""
    if number >= available - held_back_windows(available):
        return available
    return next(
        total for total in count_from(number + 1) if total - held_back_windows(total) >= number
    )
