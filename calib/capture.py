"""Second moments of the inputs of a block's linears, from calibration windows.

Memory: the hidden states of all windows once (they are advanced in place) unless they are stored
on disk, one Gram matrix for each of the four linears, and the activations of one batch.
"""

from collections.abc import Iterable

import torch

from calib.activations import Hidden, Shelf, parts
from calib.batches import BATCH_TOKENS
from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.decoder_block import (
    SequenceContext,
    decoder_block,
    embed,
    linear,
    sequence_context,
)
from phi3quant.model.device import CPU
from phi3quant.model.precision import for_products
from phi3quant.model.weights import ModelWeights, OnDevice
from phi3quant.progress import Step
from phi3quant.quant.gram import Gram

# Rows of a Gram matrix that are computed at once.
_TILE = 1024


class Moments:
    """Running sums over tokens of x x^T and abs(x) for one linear's input x, FP32 [in].

    Attributes:
        outer: sum of x x^T, FP32 [in, in]; only tiles on and above the diagonal are computed.
        absolute: sum of abs(x), FP32 [in].
        tokens: number of tokens.
    """

    def __init__(self, width: int, device: torch.device = CPU) -> None:
        """Start with sums of zero for inputs of ``width`` values on ``device``."""
        self.outer = torch.zeros(width, width, device=device)
        self.absolute = torch.zeros(width, device=device)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs FP32 [..., in] to the sums."""
        rows = x.reshape(-1, x.shape[-1])
        # The sum is symmetric, so tiles on and to the right of the diagonal are enough.
        for start in range(0, rows.shape[1], _TILE):
            self.outer[start : start + _TILE, start:].addmm_(
                rows[:, start : start + _TILE].T, rows[:, start:]
            )
        self.absolute += rows.abs().sum(dim=0)
        self.tokens += len(rows)

    def finish(self) -> Gram:
        """Statistics of all inputs; the sums are overwritten."""
        for start in range(0, len(self.outer), _TILE):
            below = slice(start + _TILE, None)
            self.outer[below, start : start + _TILE] = self.outer[start : start + _TILE, below].T
        return Gram(self.outer.div_(self.tokens), self.absolute / self.tokens, self.tokens)


def collect(
    block: Block, context: SequenceContext, hidden: Hidden, tokens: int | None = None
) -> dict[str, Gram]:
    """Run windows through a block and collect statistics of its linears' inputs.

    Args:
        block: norms FP32; matrices FP32 or BF16.
        context: rotary tables and mask for the windows' length.
        hidden: inputs of the block, FP32 [windows, length, hidden].
        tokens: stop after the batch that reaches this number of tokens; None: use all.

    Returns:
        Statistics of each linear's input, by its name in architecture.LINEARS.
    """
    moments = {name: Moments(block[name].shape[1], block[name].device) for name in LINEARS}

    def watched(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        moments[name].add(x)
        # The output of the last linear isn't used.
        return linear(x, weight) if name != LINEARS[-1] else x.new_zeros(())

    for batch in batches(hidden):
        decoder_block(block, context, batch, watched)
        if tokens is not None and moments[LINEARS[0]].tokens >= tokens:
            break
    return {name: sums.finish() for name, sums in moments.items()}


def advance(block: Block, context: SequenceContext, hidden: Hidden) -> None:
    """Replace a block's inputs FP32 [windows, length, hidden] by its outputs, in place."""
    for batch in batches(hidden, changed=True):
        batch.copy_(decoder_block(block, context, batch))


def last_states(
    model: ModelWeights,
    table: torch.Tensor,
    ids: torch.Tensor,
    shelf: Shelf,
    name: str,
    step: Step,
    products: torch.dtype | None = None,
) -> Hidden:
    """Run windows through all blocks of a model, of which one is in memory at a time.

    Args:
        model: its weights, which are moved to the shelf's device.
        table: embeddings of any float type, [vocab, hidden].
        ids: token ids, int64 [windows, length].
        shelf: storage of the states; its device computes.
        name: name of the states on the shelf.
        step: counts the blocks.
        products: type of the matrices; see for_products.

    Returns:
        Outputs of the last block, FP32 [windows, length, hidden].
    """
    context = sequence_context(model.config, ids.shape[1], device=shelf.device)
    # Converted after the lookup: in FP32 the whole embedding is larger than a block.
    pieces = (embed(table, window).float() for window in torch.split(ids, 1))
    hidden = shelf.put(name, pieces, (*ids.shape, table.shape[1]))
    weights = OnDevice(model, shelf.device)
    for index in range(model.config.num_hidden_layers):
        advance(for_products(weights.block(index), products), context, hidden)
        step()
    return hidden


def outputs(block: Block, context: SequenceContext, hidden: Hidden) -> torch.Tensor:
    """Outputs of a block for inputs FP32 [windows, length, hidden], which stay unchanged."""
    return torch.cat([decoder_block(block, context, batch) for batch in batches(hidden)])


def output_distance(
    block: Block, context: SequenceContext, hidden: Hidden, target: torch.Tensor
) -> float:
    """Mean squared error of a block's outputs.

    Args:
        block: a dequantized block.
        context: rotary tables and mask for the windows' length.
        hidden: inputs, FP32 [windows, length, hidden].
        target: target outputs, FP32 [windows, length, hidden].
    """
    total = 0.0
    for batch, expected in zip(batches(hidden), batches(target), strict=True):
        squares = (decoder_block(block, context, batch) - expected).square_()
        # MPS has no FP64.
        by_token = squares.sum(dim=-1).cpu() if squares.device.type == "mps" else squares
        total += float(by_token.sum(dtype=torch.float64))
    return total / target.numel()


def batches(hidden: Hidden, *, changed: bool = False) -> Iterable[torch.Tensor]:
    """Batches of windows [windows, length, hidden] of about BATCH_TOKENS tokens.

    Args:
        hidden: activations.
        changed: whether the caller changes the batches in place.
    """
    if not hidden.shape[0]:
        return ()
    return parts(hidden, max(1, BATCH_TOKENS // hidden.shape[1]), changed=changed)
