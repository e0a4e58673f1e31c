"""Statistics of paired differences between two models' losses: mean, interval, detectable size.

Differences of tokens in one window are correlated, since they share a context, and so are those of
neighbouring windows in an article. The variance of the mean is therefore estimated from the slow
waves in the series of window means, which this correlation increases as it increases the error of
the mean. Because the waves are few, intervals use Student's t. For a comparison with other
estimators see docs/adr/0016-paired-statistics.md.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Two-sided confidence level of intervals."""

FEW_WINDOWS = 8
"""Smallest number of windows for an interval worth showing; fewer give at most two waves."""

POWER = 0.9
"""Probability that a difference of the size ``detectable`` is detected."""


@dataclass(frozen=True)
class PairedMean:
    """Mean difference of losses per token, in nats.

    Attributes:
        mean: mean over all tokens; its exponential is the ratio of perplexities.
        error: standard error of the mean; NaN for a single window.
        windows: number of windows.
    """

    mean: float
    error: float
    windows: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error: the number of waves in its estimate."""
        return _waves(self.windows)

    @property
    def ratio(self) -> float:
        """Perplexity of the second model divided by that of the first."""
        return exponential(self.mean)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the ratio; NaN for a single window."""
        half = self._quantile((1 + CONFIDENCE) / 2) * self.error
        return exponential(self.mean - half), exponential(self.mean + half)

    @property
    def surely_positive(self) -> bool:
        """Whether the whole interval is above 1; False for a single window."""
        return self.interval[0] > 1

    @property
    def detectable(self) -> float:
        """Smallest increase of perplexity, as a share, that 9 of 10 such texts would detect.

        An increase is detected if the interval's lower end is above 1. NaN for a single window.
        """
        reach = self._quantile((1 + CONFIDENCE) / 2) + self._quantile(POWER)
        return exponential(reach * self.error) - 1

    @property
    def reach(self) -> float:
        """Upper bound of the increase of perplexity, as a share, with 90 % confidence."""
        return exponential(self.mean + self._quantile(POWER) * self.error) - 1

    def _quantile(self, share: float) -> float:
        return student_quantile(share, self.freedom) if self.windows > 1 else math.nan


def paired_mean(difference: torch.Tensor) -> PairedMean:
    """Mean of differences of losses [windows, targets], with windows in the order of the text."""
    means = difference.double().mean(dim=1)
    return PairedMean(float(means.mean()), error_of_mean(means), len(means))


def error_of_mean(series: torch.Tensor) -> float:
    """Standard error of the mean of a series whose neighbours may be correlated.

    The equal-weighted cosine estimator (Lazarus, Lewis, Stock and Watson, 2018, "HAR inference",
    equation 4): the long-run variance is the mean square of the series' projections on its slowest
    cosines.

    Args:
        series: FP64 [units], in the order of the text.

    Returns:
        The error; NaN for a single unit.
    """
    count = len(series)
    if count < 2:
        return math.nan
    at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    wave = torch.arange(1, _waves(count) + 1, dtype=torch.float64)
    cosines = math.sqrt(2) * torch.cos(math.pi * wave[:, None] * at)
    # Cosines sum to zero; the mean is subtracted only for precision.
    projections = cosines @ (series - series.mean()) / math.sqrt(count)
    return float(projections.square().mean().sqrt() / math.sqrt(count))


def _waves(windows: int) -> int:
    """Number of cosines: a third of the windows.

    More cosines would miss the correlation of neighbours, fewer would cost power; see ADR 0016.
    """
    return max(1, round(windows / 3))


@cache
def student_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t distribution.

    Args:
        share: probability between 0 and 1.
        freedom: degrees of freedom, at least 1.
    """
    return float(stdtrit(freedom, share))


def exponential(value: float) -> float:
    """Exponential of a value; infinite on overflow."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
