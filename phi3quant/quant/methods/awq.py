"""Activation-aware weight quantization (AWQ), computed from Gram matrices.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2023.
The original runs each layer on all calibration tokens for every candidate. Here the output error is
computed from the second moments of the inputs: sum((E G) * E). This is the same number at a cost
that doesn't depend on the number of tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock, TensorLoss, rounded_norms
from phi3quant.quant.codecs import Codec, Codecs
from phi3quant.quant.folds import FOLDS, Fold, folded
from phi3quant.quant.gram import Gram
from phi3quant.quant.tensor import Quantized
from phi3quant.team import ALONE, Team, shared

# Steps of the exponent r of s = a^r between 0 and 1, as in AWQ's code, but with both ends.
_GRID_STEPS = 20
# Number of output rows for ranking all candidates, and for choosing among the best.
_RANKING_ROWS, _DECIDING_ROWS = 64, 256
_FINALISTS = 4
# Number of output rows from which the loss of a whole linear is estimated.
_LOSS_ROWS = 1024
# A linear is worse than RTN if its loss times this exceeds RTN's, so that rounding noise doesn't
# decide.
_WORTHWHILE = 0.999
# Lower limits for activations and weights, as in AWQ's code.
_MIN_SCALE, _MIN_WEIGHT = 1e-4, 1e-4

Scales = Mapping[str, torch.Tensor]
"""Factors of the channels, FP32 [channels], by the consumer of the fold."""

Round = Callable[[torch.Tensor, Gram], torch.Tensor]
"""Rounds FP32 [rows, in] to values that codes represent, given the statistics of the input."""


def quantize_block(
    block: Block,
    grams: Mapping[str, Gram],
    config: Phi3Config,
    codecs: Codecs,
    team: Team = ALONE,
) -> QuantizedBlock:
    """Choose folds and codes for one decoder block.

    For each linear, the scales of its fold are searched (including no fold), then the clipping of
    each group. The four searches are independent: dividing rows of a producer by s divides the
    grids of its codes as well. If a linear ends up worse than RTN, its fold is dropped.

    Args:
        block: FP32 tensors.
        grams: statistics of the inputs, by linear (architecture.LINEARS).
        config: configuration of the model.
        codecs: codec of each linear.
        team: team that shares the linears.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """

    def searched(name: str) -> tuple[float, torch.Tensor | None]:
        """RTN's loss and the best scales of a linear."""
        weight, gram, codec = block[name], grams[name], codecs[name]
        loss = _linear_loss(codec.quantize(weight), weight, gram)
        return loss, search_scales(weight, gram, FOLDS[name], config, codec)

    results = shared(team, LINEARS, searched, _costs(block))
    rtn_losses = {name: loss for name, (loss, _) in zip(LINEARS, results, strict=True)}
    scales = {
        name: best for name, (_, best) in zip(LINEARS, results, strict=True) if best is not None
    }
    while True:
        scales = _with_exact_norms(block, scales)
        result = _choose_codes(block, scales, grams, config, codecs, rtn_losses, team)
        worse = {
            name for name, loss in result.losses.items() if loss.chosen * _WORTHWHILE > loss.rtn
        }
        if not worse & scales.keys():
            return result
        scales = {name: value for name, value in scales.items() if name not in worse}


def search_scales(
    weight: torch.Tensor, gram: Gram, fold: Fold, config: Phi3Config, codec: Codec
) -> torch.Tensor | None:
    """Search the factors of a linear's input channels that lose least output after rounding.

    The candidates are AWQ's: s = a^r with a = mean abs(x), and "duo" s = a^r / w^(1-r), where w
    is the mean over rows of abs(W) relative to the largest in its group; for 21 values of r from 0
    to 1. A sample of rows ranks them. A larger sample decides among the best ones and no scaling.

    Args:
        weight: FP32 [out, in].
        gram: statistics of the linear's input.
        fold: the fold; it determines which columns share a channel.
        config: configuration of the model.
        codec: codec of the linear.

    Returns:
        FP32 [channels], or None if no candidate is better than no scaling.
    """
    candidates = list(_candidates(weight, gram, fold, config, codec))
    columns = [fold.per_column(scales, config) for scales in candidates]

    def losses(rows: torch.Tensor, tried: Sequence[int | None], round_: Round) -> list[float]:
        """Losses of candidates by their numbers, in one product; None stands for no scaling."""
        errors = rows.new_empty(len(tried), *rows.shape)
        for error, number in zip(errors, tried, strict=True):
            if number is None:
                torch.sub(round_(rows, gram), rows, out=error)
                continue
            scaled = rows * columns[number]
            torch.sub(round_(scaled, gram.divided(columns[number])), scaled, out=error)
            # In the units of the weights, so that one Gram matrix serves all candidates.
            error.div_(columns[number])
        by_row = gram.output_error(errors.flatten(0, 1)).view(len(tried), -1)
        totals: list[float] = by_row.cpu().sum(dim=1, dtype=torch.float64).tolist()
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
    """Centre scales [in] around 1; they are first raised to _MIN_SCALE, and overflows become 1."""
    scales = scales.clamp(min=_MIN_SCALE)
    scales = scales / (scales.max() * scales.min()).sqrt()
    usable = torch.isfinite(scales) & (scales > 0)
    return torch.where(usable, scales, 1.0)


def _with_exact_norms(block: Block, scales: Scales) -> dict[str, torch.Tensor]:
    """Adjust the scales so that the divided norms are FP16 numbers.

    The norm n is stored as n' = fp16(n / s). With n / n' in place of s as the factor of the
    columns, the fold is exact and only the codes are rounded.
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
    team: Team,
) -> QuantizedBlock:
    """Fold, then choose plain or clipped codes for each linear, whichever loses less output."""
    moved = folded(block, scales, config)

    def chosen(name: str) -> tuple[float, Quantized]:
        gram = grams[name]
        if name in scales:
            gram = gram.divided(FOLDS[name].per_column(scales[name], config))
        units = _row_units(name, moved[name], scales, config)
        return min(
            (
                (_linear_loss(q, moved[name], gram, units), q)
                for q in (
                    codecs[name].quantize_fitted(moved[name], gram),
                    codecs[name].quantize(moved[name]),
                )
            ),
            key=lambda pair: pair[0],
        )

    results = dict(zip(LINEARS, shared(team, LINEARS, chosen, _costs(block)), strict=True))
    linears = {name: quantized for name, (_, quantized) in results.items()}
    losses = {
        name: TensorLoss(rtn=rtn_losses[name], chosen=loss) for name, (loss, _) in results.items()
    }
    norms = rounded_norms(moved)
    return QuantizedBlock(norms, linears, losses, folds=dict(scales))


def _costs(block: Block) -> list[float]:
    """Relative costs of the linears.

    The codes of a weight cost about a thousand operations; products of sampled rows by the Gram
    matrix cost eight thousand for each of its elements.
    """
    shapes = [block[name].shape for name in LINEARS]
    return [columns * (rows + 8.0 * columns) for rows, columns in shapes]


def _row_units(name: str, weight: torch.Tensor, scales: Scales, config: Phi3Config) -> torch.Tensor:
    """Factors that convert a folded linear's outputs to the units of the unfolded one: [rows, 1].

    Rows that produce the input of another linear were divided by the scales of its fold.
    """
    units = weight.new_ones(len(weight), 1)
    for consumer, value in scales.items():
        fold = FOLDS[consumer]
        if fold.producer == name:
            units[fold.producer_rows(config), 0] = value
    return units


def _linear_loss(
    quantized: Quantized, weight: torch.Tensor, gram: Gram, units: torch.Tensor | None = None
) -> float:
    """Mean squared output error per token, summed over rows (if many, estimated from a sample).

    Args:
        quantized: ``weight`` after quantization.
        weight: FP32 [out, in].
        gram: statistics of the input.
        units: factors of the outputs, FP32 [out, 1]; None: all 1.
    """
    error = _spread(quantized.dequantize(), _LOSS_ROWS) - _spread(weight, _LOSS_ROWS)
    if units is not None:
        error *= _spread(units, _LOSS_ROWS)
    total = gram.output_error(error).cpu().sum(dtype=torch.float64)
    return float(total) * len(weight) / len(error)


def _spread(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Evenly spaced rows: at least ``count``, or all if there are fewer."""
    return rows[:: max(1, len(rows) // count)]
