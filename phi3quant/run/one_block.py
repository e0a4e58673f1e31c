"""One block through calibration: statistics, codes, and what of them is kept.

Scales and folds are chosen by the windows that are learned from. What compensation makes of a
linear, and all of it beside plain rounding, is judged by the block's true output on windows that
were held back (a single window is both).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from calib.activations import Hidden, Shelf
from calib.capture import advance, collect, output_distance, outputs
from calib.streams import Streams, put, walk
from phi3quant.evaluation.metrics import plain
from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import SequenceContext, embed, sequence_context
from phi3quant.model.precision import product_dtype
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.folds import folded
from phi3quant.quant.gram import Gram
from phi3quant.quant.methods import Method, rtn
from phi3quant.quant.tensor import Quantized

# One window of so many is held back, and at most so many windows are.
_HELD_BACK, _MOST_HELD_BACK = 8, 8

SEARCH_TOKENS = 8192
"""Tokens that suffice for the search of folds, where compensation has all of them."""


@dataclass(frozen=True)
class States:
    """Hidden states of the calibration windows on their way through the model.

    Attributes:
        context: for the windows' length.
        seen: what methods learn from, in the original and in the quantized model; changed in
            place. Without compensation ``clean`` is of no windows.
        held_back: what results are judged on, FP32 [windows, length, hidden] each, in memory.
        shelf: where the states of ``seen`` are.
    """

    context: SequenceContext
    seen: Streams
    held_back: Streams
    shelf: Shelf

    @property
    def compensate(self) -> bool:
        """Whether the original model's states are there to be made up for."""
        return self.seen.clean.shape[0] > 0


def held_back_windows(windows: int) -> int:
    """How many of so many calibration windows results are judged on."""
    return max(1, min(windows // _HELD_BACK, _MOST_HELD_BACK))


def start(
    config: Phi3Config,
    embedding: torch.Tensor,
    ids: torch.Tensor,
    shelf: Shelf,
    *,
    compensate: bool,
) -> States:
    """The states before the first block.

    Args:
        config: the model's.
        embedding: floats of any type [vocab, hidden].
        ids: int64 [windows, length], in an order that doesn't depend on where they came from. A
            single window is both learned from and judged on.
        shelf: where to keep what is learned from.
        compensate: whether compensation is to be tried: the original model's states are kept too.
    """
    count = held_back_windows(len(ids))
    held_back, seen = ids[:count], ids[count:] if len(ids) > 1 else ids

    def embedded(some: torch.Tensor) -> torch.Tensor:
        # Converted once looked up: in FP32 the whole embedding is larger than a block.
        return embed(embedding, some).float()

    def learned(name: str, windows: int) -> Hidden:
        pieces = (embedded(some) for some in torch.split(seen[:windows], 1))
        return shelf.put(name, pieces, (windows, ids.shape[1], embedding.shape[1]))

    return States(
        sequence_context(config, ids.shape[1]),
        Streams(learned("clean", len(seen) if compensate else 0), learned("actual", len(seen))),
        Streams(embedded(held_back), embedded(held_back)),
        shelf,
    )


def quantize_block(
    block: Block, states: States, method: Method, codecs: Codecs
) -> tuple[QuantizedBlock, dict[str, Any]]:
    """Quantize a block and take the states through what came out.

    Compensated codes are taken linear by linear where the block's outputs come closer to the
    original model's; RTN steps in if it is better still.

    Args:
        block: FP32 tensors.
        states: the block's inputs; become its outputs.
        method: what chooses codes.
        codecs: how each linear is stored.

    Returns:
        The block, and a report of its errors for the manifest.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    context, config, held_back = states.context, states.context.config, states.held_back
    original = for_products(block)
    target = outputs(original, context, held_back.clean)
    enough = SEARCH_TOKENS if states.compensate else None
    chosen = method.quantize_block(
        block, collect(original, context, states.seen.actual, enough), config, codecs
    )
    ready = _Ready()

    def judge(candidate: QuantizedBlock) -> float:
        return output_distance(ready.block(candidate), context, held_back.actual, target)

    error, compensated, degenerate, walked = judge(chosen), [], [], None
    if states.compensate:
        moved = folded(block, chosen.folds, config)

        def choose(name: str, gram: Gram, shortfall: torch.Tensor) -> torch.Tensor:
            nonlocal error, chosen
            if gram.degenerate:
                degenerate.append(name)
            tensor = codecs[name].quantize_compensated(moved[name], gram, shortfall)
            if tensor is not None:
                tried = replace(chosen, linears={**chosen.linears, name: tensor})
                trial = judge(tried)
                if trial < error:
                    error, chosen = trial, tried
                    compensated.append(name)
            return ready.block(chosen)[name]

        norms = {**moved, **chosen.norms}
        walked = walk((original, norms), chosen.folds, context, states.seen, choose, states.shelf)
    rounded = rtn.quantize_block(block, codecs)
    plain_error = output_distance(
        for_products(rounded.dequantized()), context, held_back.actual, target
    )
    # Written so that an error that is NaN falls back too.
    fell_back = not error <= plain_error
    kept = rounded if fell_back else chosen
    final = ready.block(kept)
    if fell_back or walked is None:
        advance(final, context, states.seen.actual)
    else:
        put(states.seen.actual, walked)
    advance(final, context, held_back.actual)
    put(held_back.clean, target)
    error = plain_error if fell_back else error
    report = {
        # JSON holds no infinity, which a model of extreme weights may end with.
        "output_error": plain(error),
        "output_error_rtn": plain(plain_error),
        "error_ratio": plain(error / plain_error) if plain_error else 1.0,
        "fell_back_to_rtn": fell_back,
        "folds": [] if fell_back else sorted(chosen.folds),
        "compensated": [] if fell_back else compensated,
        "linears": {
            name: {"error": plain(loss.chosen), "error_rtn": plain(loss.rtn)}
            for name, loss in chosen.losses.items()
        },
    }
    if degenerate:
        # The identity took the place of their inputs' statistics; see gram.Damped.
        report["degenerate"] = degenerate
    return kept, report


def advance_through(block: Block, quantized: QuantizedBlock, states: States) -> None:
    """Take the states through a finished block, in place.

    Args:
        block: the original's FP32 tensors.
        quantized: what became of it.
        states: the block's inputs; become its outputs.
    """
    original, final = for_products(block), for_products(quantized.dequantized())
    for streams in (states.seen, states.held_back):
        advance(original, states.context, streams.clean)
        advance(final, states.context, streams.actual)


class _Ready:
    """Quantized blocks ready for products, of which the last one's matrices are kept.

    Candidates that follow one another differ in one matrix.
    """

    def __init__(self) -> None:
        self._matrices: dict[str, tuple[Quantized, torch.Tensor]] = {}

    def block(self, candidate: QuantizedBlock) -> Block:
        for name, quantized in candidate.linears.items():
            if name not in self._matrices or self._matrices[name][0] is not quantized:
                # The old one goes before the new one comes.
                self._matrices.pop(name, None)
                weights = quantized.dequantize().to(product_dtype())
                self._matrices[name] = (quantized, weights)
        return {
            **candidate.norms,
            **{name: weights for name, (_, weights) in self._matrices.items()},
        }


def for_products(block: Mapping[str, torch.Tensor]) -> Block:
    """The block with its matrices in the type that this machine multiplies fastest."""
    dtype = product_dtype()
    return {key: value.to(dtype) if key in LINEARS else value for key, value in block.items()}
