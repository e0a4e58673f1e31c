"""Compact predictions of a model: the best tokens, and the total probability of the rest.

For each distribution the 64 most likely tokens are stored, and the probability of all others
together. The divergence of another model is computed over these 65 outcomes. Merging outcomes can
only lower a divergence, so the result is a lower bound of the divergence over the whole vocabulary,
and a close one if the rest's probability is small.
"""

from dataclasses import dataclass

import torch

TOP = 64
"""Stored tokens of each distribution, at most the whole vocabulary."""

STEP = 1 / 512
"""Unit of stored log-probabilities, in nats.

Both sides are normalised, so the rounding changes the divergence only in second order: by
STEP² / 24, below 2e-7."""

# Rounding error of FP32 sums over a vocabulary, which a share of zero may have.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class TopPredictions:
    """Best tokens at every scored position.

    Attributes:
        ids: int64 [tokens, top], the most likely first.
        log: FP32 [tokens, top], log-probabilities in nats, as multiples of STEP.
        rest: FP32 [tokens], probability of all other tokens together.
    """

    ids: torch.Tensor
    log: torch.Tensor
    rest: torch.Tensor

    def piece(self, start: int, stop: int) -> "TopPredictions":
        """Positions from ``start`` up to ``stop``."""
        rows = slice(start, stop)
        return TopPredictions(self.ids[rows], self.log[rows], self.rest[rows])

    def to(self, device: torch.device) -> "TopPredictions":
        """The same predictions on a device."""
        return TopPredictions(self.ids.to(device), self.log.to(device), self.rest.to(device))

    def divergence(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """KL(these || others) over the stored tokens and the rest: FP64 [tokens], in nats.

        Args:
            log_probabilities: FP32 [tokens, vocab] of the other model.
        """
        these = _outcomes(self.log, self.rest)
        best = log_probabilities.gather(1, self.ids)
        others = _outcomes(best, _rest(best))
        return (these.exp() * (these - others)).sum(dim=1).clamp(min=0)

    def same_top(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Whether the other model's most likely token is the same: bool [tokens]."""
        # Finding the largest value is several times faster than finding its index.
        best = log_probabilities.gather(1, self.ids[:, :1]).squeeze(1)
        return best >= log_probabilities.amax(dim=1)


def top_predictions(log_probabilities: torch.Tensor) -> TopPredictions:
    """Reduce log-probabilities, FP32 [tokens, vocab], to the best tokens and the rest."""
    best = torch.topk(log_probabilities, min(TOP, log_probabilities.shape[1]), dim=1)
    return TopPredictions(
        best.indices, torch.round(best.values / STEP) * STEP, _rest(best.values).float()
    )


def concatenate(pieces: list[TopPredictions]) -> TopPredictions:
    """Concatenate pieces in their order."""
    return TopPredictions(
        torch.cat([piece.ids for piece in pieces]),
        torch.cat([piece.log for piece in pieces]),
        torch.cat([piece.rest for piece in pieces]),
    )


def _rest(best: torch.Tensor) -> torch.Tensor:
    return 1 - best.double().exp().sum(dim=1)


def _outcomes(best: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """Normalised log-probabilities of the stored tokens and the rest: FP64 [tokens, top + 1]."""
    share = rest.double().clamp(min=_LEAST_SHARE)
    return torch.cat((best.double(), share.log()[:, None]), dim=1).log_softmax(dim=1)
