"""Run calibration windows through one block and keep the second moments of what it sees.

Memory: the hidden states of all windows once (they are advanced in place) unless they are stored
on disk, one Gram matrix for each of the four linears, and the activations of one batch.
"""

from collections.abc import Iterable

import torch

from calib.activations import Hidden
from calib.batches import BATCH_TOKENS
from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.decoder_block import SequenceContext, decoder_block, linear
from phi3quant.quant.gram import Gram

# Rows of a sum of products that are computed at once.
_TILE = 1024


class Moments:
    """Running sums over tokens of x x^T and abs(x) for one linear's input x [in]."""

    def __init__(self, width: int) -> None:
        """Of no tokens, for inputs of ``width``."""
        self.outer = torch.zeros(width, width)
        self.absolute = torch.zeros(width)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Take inputs FP32 [..., in] in."""
        rows = x.reshape(-1, x.shape[-1])
        # The sum is symmetric: tiles on and right of the diagonal are enough.
        for start in range(0, rows.shape[1], _TILE):
            self.outer[start : start + _TILE, start:].addmm_(
                rows[:, start : start + _TILE].T, rows[:, start:]
            )
        self.absolute += rows.abs().sum(dim=0)
        self.tokens += len(rows)

    def finish(self) -> Gram:
        """The statistics; the sums are used up."""
        for start in range(0, len(self.outer), _TILE):
            below = slice(start + _TILE, None)
            self.outer[below, start : start + _TILE] = self.outer[start : start + _TILE, below].T
        return Gram(self.outer.div_(self.tokens), self.absolute / self.tokens, self.tokens)


def collect(
    block: Block, context: SequenceContext, hidden: Hidden, tokens: int | None = None
) -> dict[str, Gram]:
    """Run windows through a block for the statistics of its linears' inputs.

    Args:
        block: FP32 norms; matrices FP32 or BF16.
        context: for the windows' length.
        hidden: the block's inputs, FP32 [windows, length, hidden].
        tokens: how many are enough; None: all.

    Returns:
        The statistics of each linear's input, under its name in layout.LINEARS.
    """
    moments = {name: Moments(block[name].shape[1]) for name in LINEARS}

    def watched(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        moments[name].add(x)
        # Nobody sees what the last linear gives out.
        return linear(x, weight) if name != LINEARS[-1] else x.new_zeros(())

    for batch in batches(hidden):
        decoder_block(block, context, batch, watched)
        if tokens is not None and moments[LINEARS[0]].tokens >= tokens:
            break
    return {name: sums.finish() for name, sums in moments.items()}


def advance(block: Block, context: SequenceContext, hidden: Hidden) -> None:
    """Replace a block's inputs [windows, length, hidden] by its outputs, in place."""
    for batch in batches(hidden):
        batch.copy_(decoder_block(block, context, batch))


def outputs(block: Block, context: SequenceContext, hidden: Hidden) -> torch.Tensor:
    """A block's outputs [windows, length, hidden] for its inputs, which stay as they are."""
    return torch.cat([decoder_block(block, context, batch) for batch in batches(hidden)])


def output_distance(
    block: Block, context: SequenceContext, hidden: Hidden, target: torch.Tensor
) -> float:
    """Mean squared error of a block's outputs.

    Args:
        block: a dequantized block.
        context: for the windows' length.
        hidden: inputs, FP32 [windows, length, hidden].
        target: what the block should give out, FP32 [windows, length, hidden].
    """
    total = 0.0
    for batch, wanted in zip(batches(hidden), batches(target), strict=True):
        off = decoder_block(block, context, batch) - wanted
        total += float(off.square().sum(dtype=torch.float64))
    return total / target.numel()


def batches(hidden: Hidden) -> Iterable[torch.Tensor]:
    """Windows that pass through a block at once [some windows, length, hidden]."""
    return hidden.split(max(1, BATCH_TOKENS // hidden.shape[1])) if hidden.shape[0] else ()
