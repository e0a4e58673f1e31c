"""Distribution of the divergence over the tokens of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phi3quant.evaluation.metrics import plain, quantile

THRESHOLDS: Sequence[float] = tuple(10 ** (step / 4) for step in range(-24, 9))
"""Thresholds from 1e-6 to 100 nats, four per decade, at which tokens are counted."""

QUANTILES: Sequence[float] = (0.5, 0.9, 0.99, 0.999, 1.0)
"""Shares of the tokens at which quantiles are taken."""


@dataclass(frozen=True)
class Divergence:
    """KL(reference || candidate) over tokens.

    Attributes:
        mean: in nats.
        quantiles: in nats, at QUANTILES.
        above: share of tokens with more than each of THRESHOLDS.
    """

    mean: float | None
    quantiles: Sequence[float | None]
    above: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "mean": self.mean,
            "quantiles": {
                f"{share:g}": value for share, value in zip(QUANTILES, self.quantiles, strict=True)
            },
            "above": [
                {"nats": threshold, "share": share}
                for threshold, share in zip(THRESHOLDS, self.above, strict=True)
            ],
        }


def divergence(kl: torch.Tensor) -> Divergence:
    """Summarize a divergence.

    Args:
        kl: FP64 in nats, of any shape; NaN counts as above every threshold.
    """
    flat = kl.flatten()
    finite = torch.nan_to_num(flat, nan=torch.inf)
    # Median and maximum as in evaluation.metrics, so that a page never shows two values for one.
    middle = [quantile(flat, share) for share in QUANTILES[1:-1]]
    return Divergence(
        plain(float(flat.mean())),
        [plain(value) for value in (float(flat.median()), *middle, float(flat.max()))],
        [float((finite > threshold).double().mean()) for threshold in THRESHOLDS],
    )
