"""Numbers of windows of each text that a run uses, to calibrate and to tune on."""

from collections.abc import Callable, Sequence
from itertools import count as count_from

from calib.mixture import TextShare, portions

# A text holds back one of N windows, up to a number.
HELD_BACK, MOST_HELD_BACK = 8, 8

Needed = Callable[[Sequence[int]], Sequence[int]]
"""Function from the numbers of windows that the texts have to the numbers that are used."""


def held_back(available: int) -> int:
    """Windows of a text that judge instead of being trained on."""
    return max(1, min(available // HELD_BACK, MOST_HELD_BACK))


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
        to_train = [each - held_back(each) for each in available]
        counts = portions(to_train, [each.share for each in shares], limit)
        return [
            _with_held_back(max(number, least), each)
            for number, each in zip(counts, available, strict=True)
        ]

    return count


def _with_held_back(number: int, available: int) -> int:
    """The least number of windows that leaves ``number`` to train on; all if none does."""
    if number >= available - held_back(available):
        return available
    return next(total for total in count_from(number + 1) if total - held_back(total) >= number)
