"""Calibrated quantization of one block: statistics, codes, and the choice between results.

Most windows are used to choose scales, folds and codes. The others are held back: on them the
block's output decides whether a compensated linear is kept, and whether the block is better than
plain rounding. A single window is used for both.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from calib.activations import Hidden, Shelf
from calib.capture import advance, collect, output_distance, outputs
from calib.share import Share
from calib.streams import Streams, put, walk
from phi3quant import freed_memory
from phi3quant.evaluation.metrics import plain
from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import SequenceContext, embed, sequence_context
from phi3quant.model.precision import for_products, product_dtype
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.codecs.row_parts import quantize_compensated
from phi3quant.quant.folds import folded
from phi3quant.quant.gram import Gram
from phi3quant.quant.methods import Method, rtn
from phi3quant.quant.tensor import Quantized, QuantizedTensor
from phi3quant.run.window_counts import held_back_windows
from phi3quant.team import ALONE, Team

SEARCH_TOKENS = 8192
"""Tokens used in the search of folds if compensation then uses all tokens."""


@dataclass(frozen=True)
class States:
    """Hidden states of the calibration windows on their way through the model.

    Attributes:
        context: sequence context for the windows' length.
        seen: states that methods learn from, in the original and the quantized model; changed in
            place. Without compensation ``clean`` has no windows.
        held_back: states that results are judged on, FP32 [windows, length, hidden] each, in
            memory.
        shelf: storage of the states in ``seen``.
        compensate: whether errors are compensated, which requires states of the original model.
        shares: shares of this member in the windows of ``seen`` and ``held_back``, which have only
            its windows.
    """

    context: SequenceContext
    seen: Streams
    held_back: Streams
    shelf: Shelf
    compensate: bool
    shares: tuple[Share, Share]

    @property
    def team(self) -> Team:
        """The team that shares the windows."""
        return self.shares[0].team


def start(
    config: Phi3Config,
    embedding: torch.Tensor,
    ids: torch.Tensor,
    shelf: Shelf,
    *,
    compensate: bool,
    coded: QuantizedTensor | None = None,
    team: Team = ALONE,
) -> States:
    """Compute the states before the first block.

    Args:
        config: configuration of the model.
        embedding: floats of any type [vocab, hidden].
        ids: int64 [windows, length], in an order that doesn't depend on their place in the text. A
            single window is both learned from and held back.
        shelf: storage of the states that methods learn from; all computing is done on its device.
        compensate: whether to keep the original model's states too, for compensation.
        coded: the embedding's codes, if they are chosen already; the quantized model's states start
            from them.
        team: team that shares the windows; each member stores only its own.
    """
    count = held_back_windows(len(ids))
    held_back, seen = ids[:count], ids[count:] if len(ids) > 1 else ids
    # The last member has the least to do in the last round.
    shares = (
        Share(len(seen), ids.shape[1], team),
        Share(len(held_back), ids.shape[1], team, first=team.size - 1),
    )
    seen, held_back = shares[0].part(seen), shares[1].part(held_back)

    def embedded(tokens: torch.Tensor) -> torch.Tensor:
        # Converted after the lookup: in FP32 the whole embedding is larger than a block.
        return embed(embedding, tokens).float().to(shelf.device)

    def stored(tokens: torch.Tensor) -> torch.Tensor:
        if coded is None:
            return embedded(tokens)
        weights = coded.rows(tokens.flatten()).dequantize()
        return weights.view(*tokens.shape, -1).to(shelf.device)

    def learned(name: str, windows: int) -> Hidden:
        states = stored if name == "actual" else embedded
        pieces = (states(window) for window in torch.split(seen[:windows], 1))
        return shelf.put(name, pieces, (windows, ids.shape[1], embedding.shape[1]))

    return States(
        sequence_context(config, ids.shape[1], device=shelf.device),
        Streams(learned("clean", len(seen) if compensate else 0), learned("actual", len(seen))),
        Streams(embedded(held_back), stored(held_back)),
        shelf,
        compensate,
        shares,
    )


def quantize_block(
    block: Block, states: States, method: Method, codecs: Codecs
) -> tuple[QuantizedBlock, dict[str, Any]]:
    """Quantize a block, and advance the states through the result.

    Compensated codes of a linear are kept if they bring the block's outputs closer to the original
    model's. If RTN is better still, the whole block falls back to it.

    Args:
        block: FP32 tensors of the block.
        states: inputs of the block, which become its outputs.
        method: method that chooses codes.
        codecs: codec of each linear.

    Returns:
        The block, and a report of its errors for the manifest.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    context, config, held_back = states.context, states.context.config, states.held_back
    original = for_products(block)
    team, (learning, judging) = states.team, states.shares
    target = outputs(original, context, held_back.clean)
    enough = SEARCH_TOKENS if states.compensate else None
    grams = collect(original, context, states.seen.actual, enough, learning)
    chosen = method.quantize_block(block, grams, config, codecs, team)
    del grams
    ready = _Ready()

    def judge(candidate: QuantizedBlock) -> float:
        return output_distance(ready.block(candidate), context, held_back.actual, target, judging)

    error, compensated, degenerate, walked = judge(chosen), [], [], None
    if states.compensate:
        moved = folded(block, chosen.folds, config)

        def choose(name: str, gram: Gram, shortfall: torch.Tensor) -> torch.Tensor:
            nonlocal error, chosen
            if gram.degenerate:
                degenerate.append(name)
            freed_memory.release()
            tensor = quantize_compensated(codecs[name], moved[name], gram, shortfall, team)
            if tensor is not None:
                tried = replace(chosen, linears={**chosen.linears, name: tensor})
                trial = judge(tried)
                if trial < error:
                    error, chosen = trial, tried
                    compensated.append(name)
            freed_memory.release()
            return ready.block(chosen)[name]

        norms = {**moved, **chosen.norms}
        walked = walk(
            (original, norms), chosen.folds, context, states.seen, choose, states.shelf, learning
        )
    rounded = rtn.quantize_block(block, codecs, team)
    plain_error = output_distance(
        for_products(rounded.dequantized()), context, held_back.actual, target, judging
    )
    # This form falls back on an error of NaN too.
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
        # Extreme weights may give infinity, which JSON can't represent.
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
        # Their inputs' statistics were replaced by the identity; see gram.Damped.
        report["degenerate"] = degenerate
    return kept, report


def advance_through(block: Block, quantized: QuantizedBlock, states: States) -> None:
    """Advance the states through a finished block, in place.

    Args:
        block: FP32 tensors of the original block.
        quantized: the block after quantization.
        states: inputs of the block, which become its outputs.
    """
    device = states.shelf.device
    restored = {key: value.to(device) for key, value in quantized.dequantized().items()}
    original, final = for_products(block), for_products(restored)
    for streams in (states.seen, states.held_back):
        advance(original, states.context, streams.clean)
        advance(final, states.context, streams.actual)


class _Ready:
    """Conversion of quantized blocks for products, with a cache of the last block's matrices.

    Consecutive candidates differ in only one matrix.
    """

    def __init__(self) -> None:
        self._matrices: dict[str, tuple[Quantized, torch.Tensor]] = {}

    def block(self, candidate: QuantizedBlock) -> Block:
        for name, quantized in candidate.linears.items():
            if name not in self._matrices or self._matrices[name][0] is not quantized:
                # The old matrix is freed before the new one is computed.
                self._matrices.pop(name, None)
                weights = quantized.dequantize()
                dtype = product_dtype(weights.device)
                self._matrices[name] = (quantized, weights.to(dtype))
        return {
            **candidate.norms,
            **{name: weights for name, (_, weights) in self._matrices.items()},
        }
