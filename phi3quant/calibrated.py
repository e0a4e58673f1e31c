"""One block through calibration: statistics, codes, and what of them is kept.

Nothing is kept because the windows that it was made from like it: every step is judged by the
block's true output on windows that were held back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from calib.capture import advance, collect, output_distance, outputs
from phi3quant.codecs import Codecs
from phi3quant.config import Phi3Config
from phi3quant.hidden import Hidden, store
from phi3quant.layout import LINEARS, Block
from phi3quant.methods import Method, gptq, rtn
from phi3quant.model import SequenceContext, embed, sequence_context
from phi3quant.precision import product_dtype
from phi3quant.qblock import QuantizedBlock
from phi3quant.qtensor import Quantized

# One window of so many is held back, and at most so many windows are.
_HELD_BACK, _MOST_HELD_BACK = 8, 8


@dataclass(frozen=True)
class States:
    """Hidden states of the calibration windows on their way through the quantized model.

    Attributes:
        context: for the windows' length.
        seen: FP32 [windows, length, hidden], what methods learn from, in memory or on disk; changed
            in place.
        held_back: FP32 [windows, length, hidden], what results are judged on; changed in place.
    """

    context: SequenceContext
    seen: Hidden
    held_back: torch.Tensor


def start(
    config: Phi3Config, embedding: torch.Tensor, ids: torch.Tensor, file: Path | None = None
) -> States:
    """The states before the first block.

    Args:
        config: the model's.
        embedding: floats of any type [vocab, hidden].
        ids: int64 [windows, length], in an order that doesn't depend on where they came from. A
            single window is both learned from and judged on.
        file: where to keep what is learned from; None: in memory.
    """
    count = max(1, min(len(ids) // _HELD_BACK, _MOST_HELD_BACK))
    held_back, seen = ids[:count], ids[count:] if len(ids) > 1 else ids
    context = sequence_context(config, ids.shape[1])

    def embedded(some: torch.Tensor) -> torch.Tensor:
        # Converted once looked up: in FP32 the whole embedding is larger than a block.
        return embed(embedding, some).float()

    if file is None:
        return States(context, embedded(seen), embedded(held_back))
    shape = (len(seen), ids.shape[1], embedding.shape[1])
    stored = store(file, (embedded(some) for some in torch.split(seen, 1)), shape)
    return States(context, stored, embedded(held_back))


def quantize_block(
    block: Block, states: States, method: Method, codecs: Codecs, *, compensate: bool
) -> tuple[QuantizedBlock, dict[str, Any]]:
    """Quantize a block and take the states through what came out.

    Compensated codes are taken linear by linear where the block's error falls; RTN steps in if it
    is better still.

    Args:
        block: FP32 tensors.
        states: the block's inputs; become its outputs.
        method: what chooses codes.
        codecs: how each linear is stored.
        compensate: whether GPTQ's compensation is tried.

    Returns:
        The block, and a report of its errors for the manifest.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    context, config = states.context, states.context.config
    original = for_products(block)
    target = outputs(original, context, states.held_back)
    grams = collect(original, context, states.seen)
    del original
    chosen = method.quantize_block(block, grams, config, codecs)
    better = gptq.compensated(block, chosen, grams, config, codecs) if compensate else {}
    # What follows needs their room.
    del grams

    ready = _Ready()

    def judge(candidate: QuantizedBlock) -> float:
        return output_distance(ready.block(candidate), context, states.held_back, target)

    error, compensated = judge(chosen), []
    for name, tensor in better.items():
        tried = replace(chosen, linears={**chosen.linears, name: tensor})
        trial = judge(tried)
        if trial < error:
            error, chosen = trial, tried
            compensated.append(name)
    plain = rtn.quantize_block(block, codecs)
    plain_error = output_distance(
        for_products(plain.dequantized()), context, states.held_back, target
    )
    # Written so that an error that is NaN falls back too.
    fell_back = not error <= plain_error
    kept = plain if fell_back else chosen
    _advance(ready.block(kept), states)
    error = plain_error if fell_back else error
    report = {
        "output_error": error,
        "output_error_rtn": plain_error,
        "error_ratio": error / plain_error if plain_error else 1.0,
        "fell_back_to_rtn": fell_back,
        "folds": [] if fell_back else sorted(chosen.folds),
        "compensated": [] if fell_back else compensated,
        "linears": {
            name: {"error": loss.chosen, "error_rtn": loss.rtn}
            for name, loss in chosen.losses.items()
        },
    }
    return kept, report


def advance_through(block: QuantizedBlock, states: States) -> None:
    """Take the states through a finished block, in place."""
    _advance(for_products(block.dequantized()), states)


def _advance(final: Block, states: States) -> None:
    for hidden in (states.seen, states.held_back):
        advance(final, states.context, hidden)


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
