"""Divergence of a quantized model's predictions from the original's, and its gradient."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from phi3quant.model.decoder_block import linear, rms_norm

PIECE_ROWS = 512
"""Rows of logits in memory at once."""


@dataclass(frozen=True)
class Head:
    """Last norm and output matrix of a model.

    Attributes:
        norm: FP32 [hidden].
        matrix: FP32 or BF16 [vocab, hidden].
        eps: of the norm.
    """

    norm: torch.Tensor
    matrix: torch.Tensor
    eps: float


@dataclass(frozen=True)
class Divergence:
    """Mean KL(original || quantized), with its gradients.

    Attributes:
        mean: nats per token.
        states: gradient by the last block's output, FP32 [rows, hidden].
        norm: gradient by the weight of the last norm, FP32 [hidden].
    """

    mean: float
    states: torch.Tensor
    norm: torch.Tensor


def divergence(
    original: Head, original_states: torch.Tensor, head: Head, states: torch.Tensor
) -> Divergence:
    """Mean divergence over tokens and its gradients.

    The gradient of KL(p || q) by the logits of q is q - p.

    Args:
        original: head of the original model.
        original_states: output of its last block, FP32 [rows, hidden].
        head: head of the quantized model.
        states: output of its last block, FP32 [rows, hidden].
    """
    total = 0.0
    gradient, by_norm = torch.empty_like(states), torch.zeros_like(head.norm)
    for part in _parts(len(states)):
        leaf = states[part].detach().requires_grad_()
        norm = head.norm.detach().requires_grad_()
        inputs = rms_norm(leaf, norm, head.eps)
        with torch.no_grad():
            expected = _log_probabilities(original, original_states[part])
            predicted = linear(inputs, head.matrix).log_softmax(dim=-1)
            chances = expected.exp()
            total += _sum(chances, expected, predicted)
            error = predicted.exp_().sub_(chances).div_(len(states))
            back = error.to(head.matrix.dtype) @ head.matrix
        by_states, piece = torch.autograd.grad(inputs, [leaf, norm], back.float())
        gradient[part] = by_states
        by_norm += piece
    return Divergence(total / len(states), gradient, by_norm)


@torch.no_grad()
def mean_divergence(
    original: Head, original_states: torch.Tensor, head: Head, states: torch.Tensor
) -> float:
    """Mean divergence over tokens in nats; see ``divergence``."""
    total = 0.0
    for part in _parts(len(states)):
        expected = _log_probabilities(original, original_states[part])
        predicted = _log_probabilities(head, states[part])
        total += _sum(expected.exp(), expected, predicted)
    return total / len(states)


def _log_probabilities(head: Head, states: torch.Tensor) -> torch.Tensor:
    return linear(rms_norm(states, head.norm, head.eps), head.matrix).log_softmax(dim=-1)


def _sum(chances: torch.Tensor, expected: torch.Tensor, predicted: torch.Tensor) -> float:
    """Sum of KL over rows; FP32 sums of a row are exact enough, those over rows aren't."""
    return math.fsum(((expected - predicted) * chances).sum(dim=1).tolist())


def _parts(rows: int) -> Iterator[slice]:
    return (slice(start, start + PIECE_ROWS) for start in range(0, rows, PIECE_ROWS))
