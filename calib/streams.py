"""Calibration windows as the original model and as the quantized one sees them, block by block.

What the blocks before have lost can be made up for by the weights that come after: each linear is
shown its inputs in the quantized model and what its outputs lack of the original's, its errors
upstream included. Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric
Calibration", 2025, does so for the inputs; here the linears that write into the residual stream
answer for that too.

Memory: both streams, what attention, the middle of the block and the MLP give out for the quantized
one, and one linear's statistics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from calib.activations import Hidden, Shelf
from calib.capture import Moments, batches
from phi3quant.model.architecture import Block
from phi3quant.model.decoder_block import SequenceContext, attention, gated, linear, rms_norm
from phi3quant.model.precision import product_dtype
from phi3quant.quant.folds import FOLDS
from phi3quant.quant.gram import Gram

# Rows of a sum of products that are computed at once.
_TILE = 1024

Choose = Callable[[str, Gram, torch.Tensor], torch.Tensor]
"""Given a linear's name, its inputs' statistics and its shortfall (see codecs.Codec), the weights
that the quantized model has there, ready for products."""


@dataclass(frozen=True)
class Streams:
    """Hidden states of the windows between two blocks.

    Attributes:
        clean: as the original model has them, FP32 [windows, length, hidden]; changed in place.
        actual: as the quantized model has them; changed in place.
    """

    clean: Hidden
    actual: Hidden


class _Sums:
    """Running sums over tokens for one linear.

    Of the products x x^T of its inputs in the quantized model, of (y - x) x^T with y those in the
    original one, and of (r' - r) x^T with r and r' the residual streams that it adds to, in the
    quantized and in the original one.
    """

    def __init__(self, width: int, residual: int) -> None:
        self.moments = Moments(width)
        self.inputs = torch.zeros(width, width)
        self.residuals = torch.zeros(residual, width)

    def add(self, x: torch.Tensor, y: torch.Tensor, residual: torch.Tensor | None = None) -> None:
        self.moments.add(x)
        # Small beside what they correct, so that fast products are good enough.
        ready = x.flatten(0, 1).to(product_dtype())
        self._add(self.inputs, y - x, ready)
        if residual is not None:
            self._add(self.residuals, residual, ready)

    @staticmethod
    def _add(sums: torch.Tensor, difference: torch.Tensor, x: torch.Tensor) -> None:
        rows = difference.flatten(0, 1).to(x.dtype)
        for start in range(0, len(sums), _TILE):
            part = slice(start, start + _TILE)
            sums[part] += rows[:, part].T @ x

    def finish(self, weight: torch.Tensor) -> tuple[Gram, torch.Tensor]:
        """The inputs' statistics and the shortfall, means over tokens; the sums are used up.

        Args:
            weight: FP32 [out, in], after its folds.
        """
        dtype = product_dtype()
        lacking = (weight.to(dtype) @ self.inputs.to(dtype)).float()
        if len(self.residuals):
            lacking += self.residuals
        del self.inputs, self.residuals
        return self.moments.finish(), lacking.div_(self.moments.tokens)


def walk(
    blocks: tuple[Block, Block],
    scales: Mapping[str, torch.Tensor],
    context: SequenceContext,
    streams: Streams,
    choose: Choose,
    shelf: Shelf,
) -> Hidden:
    """Take both streams through a block, a linear at a time.

    Args:
        blocks: the original's tensors, ready for products, and those of the same block after its
            folds, FP32.
        scales: the folds' scales [channels], by their consumers.
        context: for the windows' length.
        streams: the block's inputs. ``clean`` becomes its outputs; ``actual`` stays, for a caller
            who decides otherwise.
        choose: called for each linear in the order of computation.
        shelf: where intermediate activations are.

    Returns:
        The outputs of the quantized block, FP32 [windows, length, hidden]; on disk, the next walk
        on this shelf takes their place.
    """
    original, moved = blocks
    eps = context.config.rms_norm_eps
    windows, length, hidden = streams.actual.shape

    def norm(x: torch.Tensor, key: str, block: Block) -> torch.Tensor:
        return rms_norm(x, block[key], eps)

    def units(name: str, y: torch.Tensor) -> torch.Tensor:
        """The original's input in the units that the folded linear has its own in."""
        if name not in scales:
            return y
        return y / FOLDS[name].per_column(scales[name], context.config)

    name, key = "qkv_proj", "input_layernorm"
    sums = _Sums(hidden, 0)
    for x, y in _together(streams.actual, streams.clean):
        sums.add(norm(x, key, moved), units(name, norm(y, key, original)))
    weight = choose(name, *sums.finish(moved[name]))

    attended = shelf.make("attended", (windows, length, context.config.query_rows))
    sums = _Sums(attended.shape[-1], hidden)
    for x, y, mixed in _together(streams.actual, streams.clean, attended):
        mixed.copy_(attention(linear(norm(x, key, moved), weight), context))
        wanted = attention(linear(norm(y, key, original), original[name]), context)
        sums.add(mixed, units("o_proj", wanted), y - x)
        y.copy_(y + linear(wanted, original["o_proj"]))
    weight = choose("o_proj", *sums.finish(moved["o_proj"]))

    name, key = "gate_up_proj", "post_attention_layernorm"
    middle = shelf.make("middle", (windows, length, hidden))
    sums = _Sums(hidden, 0)
    for x, y, mixed, between in _together(streams.actual, streams.clean, attended, middle):
        between.copy_(x + linear(mixed, weight))
        sums.add(norm(between, key, moved), units(name, norm(y, key, original)))
    # The last piece holds all of it.
    del attended, mixed
    weight = choose(name, *sums.finish(moved[name]))

    inner = shelf.make(
        "inner", (windows, length, context.config.intermediate_size), product_dtype()
    )
    sums = _Sums(inner.shape[-1], hidden)
    for x, y, inside in _together(middle, streams.clean, inner):
        active = gated(linear(norm(x, key, moved), weight))
        wanted = gated(linear(norm(y, key, original), original[name]))
        sums.add(active, units("down_proj", wanted), y - x)
        # Rounded as the product does.
        inside.copy_(active)
        y.copy_(y + linear(wanted, original["down_proj"]))
    weight = choose("down_proj", *sums.finish(moved["down_proj"]))

    for x, inside in _together(middle, inner):
        x.copy_(x + linear(inside.float(), weight))
    return middle


def put(hidden: Hidden, other: Hidden) -> None:
    """Put other activations of the same shape in the place of some."""
    for old, new in _together(hidden, other):
        old.copy_(new)


def _together(*hidden: Hidden) -> "zip[tuple[torch.Tensor, ...]]":
    return zip(*map(batches, hidden), strict=True)
