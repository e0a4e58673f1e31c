"""Paired differences between two models' losses: their mean, how sure it is, what could be seen.

Tokens of one window share a context, so their differences go together, and neighbouring windows of
one article do too. The variance of the mean is therefore estimated from the slow waves in the
series of window means, which such correlation feeds as it feeds the error of the mean; few waves
make it a matter of Student's t. docs/adr/0016-paired-statistics.md compares this with other ways.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Of intervals, two-sided."""

FEW_WINDOWS = 8
"""With fewer windows an interval rests on at most two waves; it isn't worth showing."""

POWER = 0.9
"""How often a difference of the size ``detectable`` is noticed."""


@dataclass(frozen=True)
class PairedMean:
    """The mean difference of log losses per token, in nats.

    Attributes:
        mean: of all tokens; its exponential is the ratio of perplexities.
        error: its standard error; NaN for a single window.
        windows: how many there were.
    """

    mean: float
    error: float
    windows: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error: the number of waves that it is estimated from."""
        return _waves(self.windows)

    @property
    def ratio(self) -> float:
        """The second model's perplexity over the first's."""
        return exponential(self.mean)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the ratio; NaN where nothing is known of the spread."""
        half = self._quantile((1 + CONFIDENCE) / 2) * self.error
        return exponential(self.mean - half), exponential(self.mean + half)

    @property
    def surely_positive(self) -> bool:
        """Whether the interval lies above no difference; never with a single window."""
        return self.interval[0] > 1

    @property
    def detectable(self) -> float:
        """The smallest increase of perplexity, as a share, that 9 of 10 such texts would show.

        Showing means that the interval's lower end is above 1. NaN where nothing is known.
        """
        reach = self._quantile((1 + CONFIDENCE) / 2) + self._quantile(POWER)
        return exponential(reach * self.error) - 1

    @property
    def reach(self) -> float:
        """The increase of perplexity, as a share, that can be excluded with a chance of 9 in 10."""
        return exponential(self.mean + self._quantile(POWER) * self.error) - 1

    def _quantile(self, share: float) -> float:
        return student_quantile(share, self.freedom) if self.windows > 1 else math.nan


def paired_mean(difference: torch.Tensor) -> PairedMean:
    """The mean of differences of log losses [windows, targets], the windows in the text's order."""
    means = difference.double().mean(dim=1)
    return PairedMean(float(means.mean()), error_of_mean(means), len(means))


def error_of_mean(series: torch.Tensor) -> float:
    """Standard error of the mean of a series whose neighbours may be correlated.

    The equal-weighted cosine estimator (Lazarus, Lewis, Stock and Watson, 2018, "HAR inference",
    equation 4): the long-run variance is the mean square of the series' projections on its slowest
    cosines.

    Args:
        series: FP64 [units], in their order.

    Returns:
        The error; NaN for a single unit.
    """
    count = len(series)
    if count < 2:
        return math.nan
    at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    wave = torch.arange(1, _waves(count) + 1, dtype=torch.float64)
    cosines = math.sqrt(2) * torch.cos(math.pi * wave[:, None] * at)
    # Cosines sum to zero, so that the mean needn't be taken off; it only costs precision.
    projections = cosines @ (series - series.mean()) / math.sqrt(count)
    return float(projections.square().mean().sqrt() / math.sqrt(count))


def _waves(windows: int) -> int:
    """How many cosines: a third of the windows.

    More would see only independent neighbours, fewer would cost power; see the decision.
    """
    return max(1, round(windows / 3))


@cache
def student_quantile(share: float, freedom: int) -> float:
    """The value that Student's t stays below with a chance of ``share``.

    Args:
        share: between 0 and 1.
        freedom: degrees of freedom, at least 1.
    """
    return float(stdtrit(freedom, share))


def exponential(value: float) -> float:
    """Exp, infinite where that overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
