"""Second moments of the inputs of a block's linears, from calibration windows.

Memory: the hidden states of all windows once (they are advanced in place) unless they are stored
on disk, one Gram matrix for each of the four linears, and the activations of one batch.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import islice

import torch

from calib.activations import Hidden, Shelf, parts
from calib.batches import windows_per_batch
from calib.share import Share
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
from phi3quant.team import ALONE, Team, complete, owners

TILE = 1024
"""Rows of a sum of products that are computed at once, by one member of a team."""


class Moments:
    """Running sums over tokens of x x^T and abs(x) for one linear's input x, FP32 [in].

    In a team, a member computes only its stripes of TILE rows; ``complete`` exchanges them.

    Attributes:
        outer: sum of x x^T, FP32 [in, in]; only tiles on and above the diagonal are computed.
        absolute: sum of abs(x), FP32 [in], computed with the first stripe.
        pieces: rank of the member that computes a part of the sums, and its place.
    """

    def __init__(
        self,
        width: int,
        device: torch.device = CPU,
        team: Team = ALONE,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """Start with sums of zero.

        Args:
            width: number of values in an input.
            device: device that computes.
            team: team that shares the stripes.
            ranks: rank of the member that computes each stripe; None: the first computes all.
        """
        self.outer = torch.zeros(width, width, device=device)
        self.absolute = torch.zeros(width, device=device)
        ranks = ranks or [0] * len(stripes(width))
        self._starts = [
            start for start, rank in zip(stripes(width), ranks, strict=True) if rank == team.rank
        ]
        self.pieces = [
            (ranks[0], self.absolute),
            *(
                (rank, self.outer[start : start + TILE, start:])
                for start, rank in zip(stripes(width), ranks, strict=True)
            ),
        ]

    @property
    def busy(self) -> bool:
        """Whether this member computes a part of the sums."""
        return bool(self._starts)

    def add(self, x: torch.Tensor) -> None:
        """Add inputs FP32 [..., in] to this member's part of the sums."""
        rows = x.reshape(-1, x.shape[-1])
        # The sum is symmetric, so tiles on and to the right of the diagonal are enough.
        for start in self._starts:
            self.outer[start : start + TILE, start:].addmm_(
                rows[:, start : start + TILE].T, rows[:, start:]
            )
        if self._starts[:1] == [0]:
            self.absolute += rows.abs().sum(dim=0)

    def finish(self, tokens: int) -> Gram:
        """Statistics of ``tokens`` inputs from complete sums, which are overwritten."""
        for start in stripes(len(self.outer)):
            below = slice(start + TILE, None)
            self.outer[below, start : start + TILE] = self.outer[start : start + TILE, below].T
        return Gram(self.outer.div_(tokens), self.absolute / tokens, tokens)


def stripes(rows: int) -> range:
    """First rows of the stripes of a sum of products."""
    return range(0, rows, TILE)


def stripe_costs(width: int) -> list[float]:
    """Relative costs of the stripes of ``Moments.outer``."""
    return [width - start for start in stripes(width)]


def collect(
    block: Block,
    context: SequenceContext,
    hidden: Hidden,
    tokens: int | None = None,
    share: Share | None = None,
) -> dict[str, Gram]:
    """Run windows through a block and collect statistics of its linears' inputs.

    Args:
        block: norms FP32; matrices FP32 or BF16.
        context: rotary tables and mask for the windows' length.
        hidden: inputs of the block, FP32 [windows, length, hidden].
        tokens: stop after the batch that reaches this number of tokens; None: use all.
        share: share of this member, whose windows ``hidden`` has; None for a team of one.

    Returns:
        Statistics of each linear's input, by its name in architecture.LINEARS.
    """
    share = share or Share(hidden.shape[0], hidden.shape[1])
    team, enough = share.team, share.enough(tokens)
    widths = {name: block[name].shape[1] for name in LINEARS}
    costs = [cost for name in LINEARS for cost in stripe_costs(widths[name])]
    ranks = iter(owners(costs, team.size))
    moments = {
        name: Moments(
            widths[name], block[name].device, team, [next(ranks) for _ in stripes(widths[name])]
        )
        for name in LINEARS
    }

    def add(name: str, x: torch.Tensor | None) -> None:
        for inputs in team.gather([] if x is None else [x]):
            if inputs and moments[name].busy:
                moments[name].add(inputs[0])

    def watched(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        add(name, x)
        # The output of the last linear isn't used.
        return linear(x, weight) if name != LINEARS[-1] else x.new_zeros(())

    for batch in islice(batches(hidden), share.own(enough)):
        decoder_block(block, context, batch, watched)
    # In the last round, only some members may have a batch.
    for _ in range(share.own(enough), share.rounds(enough)):
        for name in LINEARS:
            add(name, None)
    complete(team, [piece for sums in moments.values() for piece in sums.pieces])
    return {name: sums.finish(share.tokens(enough)) for name, sums in moments.items()}


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
    if not hidden.shape[0]:
        return torch.empty(tuple(hidden.shape))
    return torch.cat([decoder_block(block, context, batch) for batch in batches(hidden)])


def output_distance(
    block: Block,
    context: SequenceContext,
    hidden: Hidden,
    target: torch.Tensor,
    share: Share | None = None,
) -> float:
    """Mean squared error of a block's outputs.

    Args:
        block: a dequantized block.
        context: rotary tables and mask for the windows' length.
        hidden: inputs, FP32 [windows, length, hidden].
        target: target outputs, FP32 [windows, length, hidden].
        share: share of this member, whose windows ``hidden`` and ``target`` have; None for a team
            of one.
    """
    share = share or Share(hidden.shape[0], hidden.shape[1])
    totals = []
    for batch, expected in zip(batches(hidden), batches(target), strict=True):
        squares = (decoder_block(block, context, batch) - expected).square_()
        # MPS has no FP64.
        by_token = squares.sum(dim=-1).cpu() if squares.device.type == "mps" else squares
        totals.append(float(by_token.sum(dtype=torch.float64)))
    total = 0.0
    # In a fixed order; sum() compensates rounding errors in some versions of Python.
    for each in share.in_order(totals):
        total += each
    return total / (share.windows * math.prod(target.shape[1:]))


def batches(hidden: Hidden, *, changed: bool = False) -> Iterable[torch.Tensor]:
    """Batches of windows [windows, length, hidden] of about batches.BATCH_TOKENS tokens.

    Args:
        hidden: activations.
        changed: whether the caller changes the batches in place.
    """
    if not hidden.shape[0]:
        return ()
    return parts(hidden, windows_per_batch(hidden.shape[1]), changed=changed)
