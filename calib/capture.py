"""Run calibration windows through one block and keep the second moments of what it sees.

Memory: the hidden states of all windows once (they are advanced in place) unless they are stored
on disk, one Gram matrix for each of the four linears, and the activations of one batch.
"""

from collections.abc import Iterable, Mapping

import torch

from phi3quant.gram import Gram
from phi3quant.hidden import Hidden
from phi3quant.layout import LINEARS, Block
from phi3quant.model import SequenceContext, decoder_block

# Tokens that pass through a block at once: large enough for full speed, small enough for caches.
BATCH_TOKENS = 4096


class _Moments:
    """Running sums over tokens of x x^T and abs(x) for one linear's input."""

    def __init__(self, width: int) -> None:
        self.outer = torch.zeros(width, width)
        self.absolute = torch.zeros(width)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1])
        self.outer.addmm_(rows.T, rows)
        self.absolute += rows.abs().sum(dim=0)
        self.tokens += len(rows)

    def finish(self) -> Gram:
        return Gram(self.outer / self.tokens, self.absolute / self.tokens, self.tokens)


def collect(block: Block, context: SequenceContext, hidden: Hidden) -> dict[str, Gram]:
    """Run windows through a block for the statistics of its linears' inputs.

    Args:
        block: FP32 norms; matrices FP32 or BF16.
        context: for the windows' length.
        hidden: the block's inputs, FP32 [windows, length, hidden].

    Returns:
        The statistics of each linear's input, under its name in layout.LINEARS.
    """
    moments = {name: _Moments(block[name].shape[1]) for name in LINEARS}
    for batch in _batches(hidden):
        decoder_block(block, context, batch, lambda name, x: moments[name].add(x))
    return {name: sums.finish() for name, sums in moments.items()}


def advance(block: Block, context: SequenceContext, hidden: Hidden) -> None:
    """Replace a block's inputs [windows, length, hidden] by its outputs, in place."""
    for batch in _batches(hidden):
        batch.copy_(decoder_block(block, context, batch))


def layer_error(
    candidates: Mapping[str, Block], block: Block, context: SequenceContext, hidden: torch.Tensor
) -> dict[str, float]:
    """Mean squared error of each candidate's output against the block's, on ``hidden``.

    Args:
        candidates: dequantized blocks by name.
        block: the block in full precision.
        context: for the windows' length.
        hidden: inputs, FP32 [windows, length, hidden].
    """
    errors = dict.fromkeys(candidates, 0.0)
    for batch in _batches(hidden):
        target = decoder_block(block, context, batch)
        for name, candidate in candidates.items():
            off = decoder_block(candidate, context, batch) - target
            errors[name] += float(off.square().sum(dtype=torch.float64))
    return {name: total / hidden.numel() for name, total in errors.items()}


def _batches(hidden: Hidden) -> Iterable[torch.Tensor]:
    return hidden.split(max(1, BATCH_TOKENS // hidden.shape[1]))
