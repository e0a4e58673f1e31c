"""The rule by which a measured ratio of perplexities passes or fails: ``check``'s and ``awq``'s.

A gate fails when two things hold: the model is surely worse (the lower end of the 95 % interval is
above 1) and it is worse by more than is allowed (the estimate is above the limit; or, for a gate
that must not miss an increase of the limit itself, such an increase can't be excluded). Noise alone
thus fails it in one case of forty, and one of twenty where windows are correlated. A gate that
would not have noticed what it is there for doesn't pass but says so.
"""

from dataclasses import dataclass
from enum import StrEnum

from phi3quant.evaluation.paired_statistics import PairedMean

DEFAULT_DRIFT = 0.005
"""How much worse than the baseline is allowed by default; and what every gate must be able to see.

A limit below this asks for a stricter verdict, not for more text."""

BUDGETS = ((15.0, 0.005), (8.0, 0.01), (6.0, 0.02), (5.0, 0.05), (4.0, 0.15), (0.0, 0.5))
"""Bits a weight of the blocks' matrices, and how much they may cost against full precision."""


class Verdict(StrEnum):
    """What a check says; gates say one of the first three."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "regression"
    UNDERPOWERED = "underpowered"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Gate:
    """A limit on how much worse a model may be, and what was measured.

    Attributes:
        name: ``budget``, ``drift`` or ``divergence``.
        beside: what the ratio is relative to, for people.
        limit: the allowed increase of perplexity, as a share.
        measured: the paired difference.
        excludes: fail already where an increase of the limit can't be excluded, so that one of just
            that size is caught nine times in ten.
    """

    name: str
    beside: str
    limit: float
    measured: PairedMean
    excludes: bool = False

    @property
    def verdict(self) -> Verdict:
        """Pass, fail, or that the text is too short to tell."""
        increase = self.measured.reach if self.excludes else self.measured.ratio - 1
        if self.measured.surely_positive and increase > self.limit:
            return Verdict.FAIL
        # Written so that a NaN, of a single window, counts as too little.
        if not self.measured.detectable <= max(self.limit, DEFAULT_DRIFT):
            return Verdict.UNDERPOWERED
        return Verdict.PASS

    @property
    def creeping(self) -> bool:
        """Whether a model that passes is surely worse all the same, within the limit."""
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
    """The increase of perplexity that so many bits a weight may cost.

    Args:
        bits: of the blocks' matrices, scales included.
    """
    return next(budget for least, budget in BUDGETS if bits >= least)
