"""Gates: the rule by which a measured ratio of perplexities passes or fails.

A gate fails if two conditions hold:

- The model is surely worse: the lower end of the 95 % interval is above 1.
- It is worse by more than the limit: the estimate is above the limit. A gate with ``excludes``
  also counts an increase of the limit that can't be excluded.

Noise alone fails a gate in one of 40 cases, or one of 20 if windows are correlated. A gate that
could not have detected an increase of its limit is underpowered instead of passed.
"""

from dataclasses import dataclass
from enum import StrEnum

from phi3quant.evaluation.paired_statistics import PairedMean

DEFAULT_DRIFT = 0.005
"""Default limit on the increase against the baseline, which every gate must be able to detect.

A limit below this makes the verdict stricter, but doesn't require more text."""

BUDGETS = ((15.0, 0.005), (8.0, 0.01), (6.0, 0.02), (5.0, 0.05), (4.0, 0.15), (0.0, 0.5))
"""Least bits per weight of the blocks' matrices, with the allowed increase of perplexity."""


class Verdict(StrEnum):
    """Verdict of a check; gates give one of the first three."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "regression"
    UNDERPOWERED = "underpowered"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Gate:
    """Limit on the increase of perplexity, with the measured one.

    Attributes:
        name: ``budget``, ``drift`` or ``divergence``.
        beside: name of the model that the ratio is relative to, for messages.
        limit: allowed increase of perplexity, as a share.
        measured: paired difference.
        excludes: whether to fail if an increase of the limit can't be excluded, so that one of just
            that size is detected nine times in ten.
    """

    name: str
    beside: str
    limit: float
    measured: PairedMean
    excludes: bool = False

    @property
    def verdict(self) -> Verdict:
        """Pass, fail, or underpowered if the text is too short."""
        increase = self.measured.reach if self.excludes else self.measured.ratio - 1
        if self.measured.surely_positive and increase > self.limit:
            return Verdict.FAIL
        # This form counts NaN, the result of a single window, as underpowered.
        if not self.measured.detectable <= max(self.limit, DEFAULT_DRIFT):
            return Verdict.UNDERPOWERED
        return Verdict.PASS

    @property
    def creeping(self) -> bool:
        """Whether a model that passes is nevertheless surely worse, within the limit."""
        return self.verdict is Verdict.PASS and self.measured.surely_positive

    def __str__(self) -> str:
        measured = self.measured
        low, high = measured.interval
        line = (
            f"perplexity is {measured.ratio:.4f} of {self.beside} "
            f"(95 % interval {low:.4f}-{high:.4f}); an increase of {self.limit:.2%} is allowed"
        )
        if self.verdict is not Verdict.UNDERPOWERED:
            return line
        return (
            f"{line}. Underpowered: {measured.windows} windows would show an increase of "
            f"{measured.detectable:.2%} nine times in ten and no smaller one; give more text or a "
            "higher limit"
        )


def default_budget(bits: float) -> float:
    """Allowed increase of perplexity for a number of bits per weight.

    Args:
        bits: bits per weight of the blocks' matrices, including scales.
    """
    return next(budget for least, budget in BUDGETS if bits >= least)
