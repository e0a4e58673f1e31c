"""A model's predictions cut down to what a file can hold: the best tokens and the rest's share.

Of each distribution the 64 likeliest tokens are kept, and how much all others have together. The
divergence of another model from that is the one over these 65 outcomes. Lumping outcomes together
can only lower a divergence, so it is a lower bound of that over the whole vocabulary, and a close
one while the rest's share is small.
"""

from dataclasses import dataclass

import torch

TOP = 64
"""Tokens that are kept of each distribution, or the whole vocabulary if that is smaller."""

STEP = 1 / 512
"""Log-probabilities are kept in multiples of this, in nats. Since both sides are normalised, the
divergence feels the rounding in second order only: STEP² / 24, below 2e-7."""

# What FP32 sums over a vocabulary leave of a share that is none.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class TopPredictions:
    """The best tokens at every scored position.

    Attributes:
        ids: int64 [tokens, top], the likeliest first.
        log: FP32 [tokens, top], their log-probabilities in nats, in multiples of STEP.
        rest: FP32 [tokens], the probability of all other tokens together.
    """

    ids: torch.Tensor
    log: torch.Tensor
    rest: torch.Tensor

    def piece(self, start: int, stop: int) -> "TopPredictions":
        """Positions from ``start`` up to ``stop``."""
        rows = slice(start, stop)
        return TopPredictions(self.ids[rows], self.log[rows], self.rest[rows])

    def divergence(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """KL(these || others) over the kept tokens and the rest: FP64 [tokens], in nats.

        Args:
            log_probabilities: FP32 [tokens, vocab], the other model's.
        """
        own = _outcomes(self.log, self.rest)
        best = log_probabilities.gather(1, self.ids)
        other = _outcomes(best, _rest(best))
        return (own.exp() * (own - other)).sum(dim=1).clamp(min=0)

    def same_top(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Whether the other model's likeliest token is the same: bool [tokens]."""
        # The largest value is found several times faster than its place.
        own = log_probabilities.gather(1, self.ids[:, :1]).squeeze(1)
        return own >= log_probabilities.amax(dim=1)


def top_predictions(log_probabilities: torch.Tensor) -> TopPredictions:
    """Cut down log-probabilities FP32 [tokens, vocab]."""
    best = torch.topk(log_probabilities, min(TOP, log_probabilities.shape[1]), dim=1)
    return TopPredictions(
        best.indices, torch.round(best.values / STEP) * STEP, _rest(best.values).float()
    )


def concatenate(pieces: list[TopPredictions]) -> TopPredictions:
    """Pieces in their order as one."""
    return TopPredictions(
        torch.cat([piece.ids for piece in pieces]),
        torch.cat([piece.log for piece in pieces]),
        torch.cat([piece.rest for piece in pieces]),
    )


def _rest(best: torch.Tensor) -> torch.Tensor:
    return 1 - best.double().exp().sum(dim=1)


def _outcomes(best: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the kept tokens and the rest, made to sum to one: [tokens, top + 1]."""
    share = rest.double().clamp(min=_LEAST_SHARE)
    return torch.cat((best.double(), share.log()[:, None]), dim=1).log_softmax(dim=1)
