"""Figures of a comparison of two models, and the windows of text with the largest loss."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phi3quant.evaluation.paired_statistics import exponential
from phi3quant.evaluation.perplexity import Comparison, Score

# Tokens shown of a window: before its worst token, and from that token on.
_SHOWN_BEFORE, _SHOWN_AFTER = 40, 8


def figures(comparison: Comparison, *, reference: bool) -> dict[str, Any]:
    """Comparison as JSON values; for a reference only the figures of its own predictions."""
    candidate = comparison.candidate
    scores = {
        "perplexity": plain(candidate.perplexity),
        "standard_error": plain(candidate.standard_error),
        "tokens": candidate.tokens,
        "not_finite": candidate.not_finite,
    }
    if reference:
        return scores
    kl = comparison.kl.flatten()
    low, high = comparison.interval
    return {
        **scores,
        "ratio": plain(comparison.ratio),
        "ratio_95": [plain(low), plain(high)],
        "kl_mean": plain(float(kl.mean())),
        "kl_median": plain(float(kl.median())),
        "kl_p999": plain(quantile(kl, 0.999)),
        "kl_max": plain(float(kl.max())),
        "same_top": comparison.same_top,
        "target_rms": plain(target_rms(comparison)),
    }


def target_rms(comparison: Comparison) -> float:
    """Root mean square of the change in the target's probability."""
    change = (-comparison.candidate.nll).exp() - (-comparison.reference.nll).exp()
    return math.sqrt(float(change.square().mean()))


def perplexity_past(score: Score, sliding_window: int | None) -> float | None:
    """Perplexity of the targets with more context than the sliding window holds.

    None if the model has no sliding window, or the scored windows are not longer than it.
    """
    if sliding_window is None or score.nll.shape[1] <= sliding_window:
        return None
    return exponential(float(score.nll[:, sliding_window:].mean()))


@dataclass(frozen=True)
class WorstWindow:
    """Window of text in which the candidate lost more than in others.

    Attributes:
        number: index of the window.
        ratio: perplexity of the candidate divided by that of the reference, in the window.
        text: text around the worst token.
        token: token with the largest loss compared with the reference.
    """

    number: int
    ratio: float
    text: str
    token: str

    def as_json(self) -> dict[str, Any]:
        """The window as JSON values."""
        return {
            "window": self.number,
            "ratio": plain(self.ratio),
            "text": self.text,
            "token": self.token,
        }


def worst_windows(
    comparison: Comparison,
    windows: torch.Tensor,
    decode: Callable[[Sequence[int]], str],
    count: int = 3,
) -> list[WorstWindow]:
    """Windows with the highest ratios, the worst first.

    Args:
        comparison: comparison of the models.
        windows: int64 token ids [windows, length].
        decode: function that decodes token ids.
        count: number of windows to return.
    """
    lost = torch.nan_to_num(comparison.candidate.nll - comparison.reference.nll, nan=math.inf)
    means = lost.mean(dim=1)
    worst = []
    for number in means.argsort(descending=True)[:count].tolist():
        # Target t is the token at position t + 1.
        at = int(lost[number].argmax()) + 1
        ids = windows[number].tolist()
        shown = decode(ids[max(0, at - _SHOWN_BEFORE) : at + _SHOWN_AFTER])
        worst.append(
            WorstWindow(number, exponential(float(means[number])), shown, decode([ids[at]]))
        )
    return worst


def quantile(values: torch.Tensor, share: float) -> float:
    """Value that ``share`` of ``values`` [n] don't exceed; long tensors are thinned out."""
    return float(torch.quantile(_thinned(values), share))


def plain(value: float) -> float | None:
    """Replace NaN and infinity, which JSON can't represent, by None."""
    return value if math.isfinite(value) else None


def _thinned(values: torch.Tensor) -> torch.Tensor:
    """Every n-th value, so that torch.quantile accepts their number."""
    most = 1 << 24
    return values[:: max(1, -(-len(values) // most))]
