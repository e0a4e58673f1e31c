"""Activation-aware weight quantization (AWQ), on Gram matrices.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2023.
Where the original runs each layer on all calibration tokens for every candidate, here the output
error comes from the inputs' second moments: sum((E G) * E), the same number at a cost that doesn't
depend on the tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock, TensorLoss, rounded_norms
from phi3quant.quant.codecs import Codec, Codecs
from phi3quant.quant.folds import FOLDS, Fold, folded
from phi3quant.quant.gram import Gram
from phi3quant.quant.methods import rtn
from phi3quant.quant.tensor import Quantized

# The exponents r of s = a^r: AWQ's 20 steps, with both ends.
_GRID_STEPS = 20
# Output rows that rank the candidates, and those that decide among the best few.
_RANKING_ROWS, _DECIDING_ROWS = 64, 256
_FINALISTS = 4
# Output rows from which the loss of a whole linear is estimated.
_LOSS_ROWS = 1024
# A fold must beat no fold by this much, so that rounding noise never decides.
_WORTHWHILE = 0.999
# AWQ's guards against vanishing activations and weights.
_MIN_SCALE, _MIN_WEIGHT = 1e-4, 1e-4

Scales = Mapping[str, torch.Tensor]
"""Per fold (by its consumer's name), what its channels are multiplied by: FP32 [channels]."""

Round = Callable[[torch.Tensor, Gram], torch.Tensor]
"""What remains of FP32 [rows, in] after rounding, given the statistics of the input."""


def quantize_block(
    block: Block, grams: Mapping[str, Gram], config: Phi3Config, codecs: Codecs
) -> QuantizedBlock:
    """Choose folds and codes for one decoder block.

    Each linear searches the scales of its own fold, identity included, and then the clipping of
    each group. The four searches don't touch one another: dividing a producer's rows by s takes
    the grid of its codes along. A linear that ends up worse than RTN gives its fold up.

    Args:
        block: FP32 tensors.
        grams: input statistics of each of layout.LINEARS.
        config: the model's.
        codecs: how each linear is stored.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    plain = rtn.quantize_block(block, codecs)
    rtn_losses = {
        name: _linear_loss(q, block[name], grams[name]) for name, q in plain.linears.items()
    }
    scales = {
        name: found
        for name in LINEARS
        if (found := search_scales(block[name], grams[name], FOLDS[name], config, codecs[name]))
        is not None
    }
    while True:
        scales = _with_exact_norms(block, scales)
        result = _choose_codes(block, scales, grams, config, codecs, rtn_losses)
        worse = {
            name for name, loss in result.losses.items() if loss.chosen * _WORTHWHILE > loss.rtn
        }
        if not worse & scales.keys():
            return result
        scales = {name: value for name, value in scales.items() if name not in worse}


def search_scales(
    weight: torch.Tensor, gram: Gram, fold: Fold, config: Phi3Config, codec: Codec
) -> torch.Tensor | None:
    """Find what to multiply a linear's input channels by before rounding.

    The candidates are AWQ's: s = a^r with a = mean abs(x), and "duo" s = a^r / w^(1-r) with
    w = the mean over rows of abs(W) relative to its group's largest; for 21 values of r from 0
    to 1. A sample of rows ranks them, a larger one decides among the best and against leaving the
    weights alone.

    Args:
        weight: FP32 [out, in].
        gram: statistics of the linear's input.
        fold: where the scales go; it says which columns share a channel.
        config: the model's.
        codec: how the linear is stored.

    Returns:
        FP32 [channels], or None if no candidate is worth it.
    """
    candidates = list(_candidates(weight, gram, fold, config, codec))
    columns = [fold.per_column(scales, config) for scales in candidates]

    def losses(rows: torch.Tensor, tried: Sequence[int | None], round_: Round) -> list[float]:
        """Of candidates by number, all in one product; None leaves the weights alone."""
        errors = rows.new_empty(len(tried), *rows.shape)
        for place, number in zip(errors, tried, strict=True):
            if number is None:
                torch.sub(round_(rows, gram), rows, out=place)
                continue
            scaled = rows * columns[number]
            torch.sub(round_(scaled, gram.divided(columns[number])), scaled, out=place)
            # Back in the units of the weights, so that one Gram matrix serves all candidates.
            place.div_(columns[number])
        found = gram.output_error(errors.flatten(0, 1)).view(len(tried), -1)
        totals: list[float] = found.sum(dim=1, dtype=torch.float64).tolist()
        return totals

    def plain(rows: torch.Tensor, _gram: Gram) -> torch.Tensor:
        return codec.round_trip(rows)

    def fitted(rows: torch.Tensor, scaled: Gram) -> torch.Tensor:
        return codec.quantize_fitted(rows, scaled).dequantize()

    few, more = (_spread(weight, count) for count in (_RANKING_ROWS, _DECIDING_ROWS))
    ranks = losses(few, range(len(candidates)), plain)
    best = sorted(range(len(candidates)), key=ranks.__getitem__)[:_FINALISTS]
    finalists = [None, *best]
    decided = losses(more, finalists, fitted)
    winner = min(zip(decided, finalists, strict=True), key=lambda pair: pair[0])[1]
    return None if winner is None else candidates[winner]


def _candidates(
    weight: torch.Tensor, gram: Gram, fold: Fold, config: Phi3Config, codec: Codec
) -> Iterator[torch.Tensor]:
    activation = fold.per_channel(gram.mean_abs, config)
    groups = weight.view(weight.shape[0], -1, codec.group_width(weight.shape[1])).abs()
    relative = groups / groups.amax(dim=-1, keepdim=True).clamp(min=torch.finfo().tiny)
    share = fold.per_channel(relative.view_as(weight).mean(dim=0), config)
    for step in range(_GRID_STEPS + 1):
        r = step / _GRID_STEPS
        for scales in (activation**r, activation**r / (share ** (1 - r) + _MIN_WEIGHT)):
            yield _normalised(scales)


def _normalised(scales: torch.Tensor) -> torch.Tensor:
    """Centre scales around 1; dead channels and overflows get exactly 1."""
    scales = scales.clamp(min=_MIN_SCALE)
    scales = scales / (scales.max() * scales.min()).sqrt()
    usable = torch.isfinite(scales) & (scales > 0)
    return torch.where(usable, scales, 1.0)


def _with_exact_norms(block: Block, scales: Scales) -> dict[str, torch.Tensor]:
    """Adjust the scales so that the divided norms are FP16 numbers.

    The norm n is stored as n' = fp16(n / s); multiplying the columns by n / n' instead of s makes
    the fold exact again, and leaves all rounding to the codes.
    """
    adjusted = dict(scales)
    for name, value in scales.items():
        producer = block[FOLDS[name].producer]
        if producer.dim() != 1:
            continue
        exact = producer / (producer / value).half().float()
        adjusted[name] = torch.where(torch.isfinite(exact) & (exact > 0), exact, 1.0)
    return adjusted


def _choose_codes(
    block: Block,
    scales: Scales,
    grams: Mapping[str, Gram],
    config: Phi3Config,
    codecs: Codecs,
    rtn_losses: Mapping[str, float],
) -> QuantizedBlock:
    """Fold, then take plain or clipped codes for each linear, whichever loses less output."""
    moved = folded(block, scales, config)
    linears: dict[str, Quantized] = {}
    losses: dict[str, TensorLoss] = {}
    for name in LINEARS:
        gram = grams[name]
        if name in scales:
            gram = gram.divided(FOLDS[name].per_column(scales[name], config))
        units = _row_units(name, moved[name].shape[0], scales, config)
        loss, linears[name] = min(
            (
                (_linear_loss(q, moved[name], gram, units), q)
                for q in (
                    codecs[name].quantize_fitted(moved[name], gram),
                    codecs[name].quantize(moved[name]),
                )
            ),
            key=lambda pair: pair[0],
        )
        losses[name] = TensorLoss(rtn=rtn_losses[name], chosen=loss)
    norms = rounded_norms(moved)
    return QuantizedBlock(norms, linears, losses, folds=dict(scales))


def _row_units(name: str, rows: int, scales: Scales, config: Phi3Config) -> torch.Tensor:
    """What brings a folded linear's outputs back to the units of the unfolded one: [rows, 1].

    Rows that produce another linear's input were divided by that fold's scales.
    """
    units = torch.ones(rows, 1)
    for consumer, value in scales.items():
        fold = FOLDS[consumer]
        if fold.producer == name:
            units[fold.producer_rows(config), 0] = value
    return units


def _linear_loss(
    quantized: Quantized, weight: torch.Tensor, gram: Gram, units: torch.Tensor | None = None
) -> float:
    """Mean squared output error per token, summed over rows; of many rows, estimated from some.

    Args:
        quantized: what became of ``weight``.
        weight: FP32 [out, in].
        gram: of the input.
        units: FP32 [out, 1], what the outputs are multiplied by; None: 1.
    """
    some = _spread(quantized.dequantize(), _LOSS_ROWS) - _spread(weight, _LOSS_ROWS)
    if units is not None:
        some *= _spread(units, _LOSS_ROWS)
    total = gram.output_error(some).sum(dtype=torch.float64)
    return float(total) * len(weight) / len(some)


def _spread(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Rows at even distances, at least ``count`` of them if there are as many."""
    return rows[:: max(1, len(rows) // count)]
