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
        start, end: place of the token in ``text``, in characters; equal if it has no text of its
            own.
        reference_top, candidate_top: token that each model ranked first in its place; None if the
            comparison didn't keep them.
    """

    number: int
    ratio: float
    text: str
    token: str
    start: int = 0
    end: int = 0
    reference_top: str | None = None
    candidate_top: str | None = None

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
        target = int(lost[number].argmax())
        # Target t is the token at position t + 1.
        at = target + 1
        ids = windows[number].tolist()
        text, start, end = _excerpt(ids, at, decode)
        worst.append(
            WorstWindow(
                number,
                exponential(float(means[number])),
                text,
                decode([ids[at]]),
                start,
                end,
                _top(comparison.reference_top, number, target, decode),
                _top(comparison.candidate_top, number, target, decode),
            )
        )
    return worst


def _excerpt(
    ids: Sequence[int], at: int, decode: Callable[[Sequence[int]], str]
) -> tuple[str, int, int]:
    """Text around a token, and where in it the token starts and ends."""
    first = max(0, at - _SHOWN_BEFORE)
    text = decode(ids[first : at + _SHOWN_AFTER])
    before, through = decode(ids[first:at]), decode(ids[first : at + 1])
    # A token within a character has no text of its own.
    if not (through.startswith(before) and text.startswith(through)):
        return text, 0, 0
    token = through[len(before) :]
    return text, len(through) - len(token.lstrip() or token), len(through)


def _top(
    ids: torch.Tensor | None, window: int, target: int, decode: Callable[[Sequence[int]], str]
) -> str | None:
    return None if ids is None else decode([int(ids[window, target])])


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
