"""Hidden states of the calibration windows in the original and in the quantized model.

Weights can compensate errors of earlier layers. For this, each linear gets the statistics of its
inputs in the quantized model, and the shortfall of its outputs against the original model, which
includes all earlier errors. Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for
Asymmetric Calibration", 2025, corrects errors of the inputs; here the linears that write into the
residual stream correct its errors as well.

Memory: both streams; for the quantized one also the outputs of attention, of the first half of the
block and of the MLP's activation; and one linear's statistics.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from calib.activations import Hidden, Shelf
from calib.capture import batches
from calib.share import Share
from calib.sums import Sums
from phi3quant.model.architecture import Block
from phi3quant.model.decoder_block import SequenceContext, attention, gated, linear, rms_norm
from phi3quant.model.precision import product_dtype
from phi3quant.quant.folds import FOLDS
from phi3quant.quant.gram import Gram

Choose = Callable[[str, Gram, torch.Tensor], torch.Tensor]
"""Quantizes a linear, from its name, the statistics of its inputs and the shortfall (see
codecs.Codec) of this member's rows (see team.rows_of); returns the dequantized weights [out, in] in
the dtype for products."""

FIRST_TOKEN_WEIGHT = 100.0
"""Weight of the first token of a window of 512 in the sums for qkv_proj, next to 1 for any other.

All later tokens attend to it (Xiao et al., "Efficient Streaming Language Models with Attention
Sinks", 2023), so that errors of its keys and values reach all of them. The weight was chosen among
three (ADR 0035). In other windows it is in proportion to their length, and at least 1.
"""
_WEIGHED_LENGTH = 512


@dataclass(frozen=True)
class Streams:
    """Hidden states of the windows between two blocks.

    Attributes:
        clean: states of the original model, FP32 [windows, length, hidden]; changed in place.
        actual: states of the quantized model, of the same shape.
    """

    clean: Hidden
    actual: Hidden


def walk(
    blocks: tuple[Block, Block],
    scales: Mapping[str, torch.Tensor],
    context: SequenceContext,
    streams: Streams,
    choose: Choose,
    shelf: Shelf,
    share: Share | None = None,
) -> Hidden:
    """Run both streams through a block, linear by linear.

    Args:
        blocks: tensors of the original block in the dtype for products, and FP32 tensors of the
            same block after its folds.
        scales: FP32 scales [channels] of the folds, by their consumers.
        context: rotary tables and mask for the windows' length.
        streams: inputs of the block. ``clean`` is replaced by its outputs; ``actual`` stays
            unchanged, so that the caller can reject the result.
        choose: quantizes each linear, in the order of computation.
        shelf: storage for intermediate activations.
        share: share of this member, whose windows the streams have; None for a team of one.

    Returns:
        Outputs of the quantized block, FP32 [windows, length, hidden]. On disk, they are valid
        until the next walk on the same shelf.
    """
    original, moved = blocks
    eps = context.config.rms_norm_eps
    windows, length, hidden = streams.actual.shape
    share = share or Share(windows, length)
    actual, clean = streams.actual, streams.clean
    device = moved["qkv_proj"].device
    dtype = product_dtype(device)

    def norm(x: torch.Tensor, key: str, block: Block) -> torch.Tensor:
        return rms_norm(x, block[key], eps)

    def units(name: str, y: torch.Tensor) -> torch.Tensor:
        """Input in the original model, converted to the units of the folded linear's input."""
        if name not in scales:
            return y
        return y / FOLDS[name].per_column(scales[name], context.config)

    name, key = "qkv_proj", "input_layernorm"
    sums = Sums(hidden, 0, device, share)
    for x, y in _together(actual, clean):
        inputs, clean_inputs = norm(x, key, moved), units(name, norm(y, key, original))
        sums.add(_first_weighted(inputs), _first_weighted(clean_inputs))
    weight = choose(name, *sums.finish(moved[name]))

    attended = shelf.make("attended", (windows, length, context.config.query_rows))
    sums = Sums(attended.shape[-1], hidden, device, share)
    for y, mixed, x in _together(actual, changed=(clean, attended)):
        mixed.copy_(attention(linear(norm(x, key, moved), weight), context))
        clean_mixed = attention(linear(norm(y, key, original), original[name]), context)
        sums.add(mixed, units("o_proj", clean_mixed), y - x)
        y.copy_(y + linear(clean_mixed, original["o_proj"]))
    weight = choose("o_proj", *sums.finish(moved["o_proj"]))

    name, key = "gate_up_proj", "post_attention_layernorm"
    middle = shelf.make("middle", (windows, length, hidden))
    sums = Sums(hidden, 0, device, share)
    for between, x, y, mixed in _together(actual, clean, attended, changed=(middle,)):
        between.copy_(x + linear(mixed, weight))
        sums.add(norm(between, key, moved), units(name, norm(y, key, original)))
        # A view that keeps the whole tensor in memory.
        del mixed
    del attended
    weight = choose(name, *sums.finish(moved[name]))

    inner = shelf.make("inner", (windows, length, context.config.intermediate_size), dtype)
    sums = Sums(inner.shape[-1], hidden, device, share)
    for y, inside, x in _together(middle, changed=(clean, inner)):
        active = gated(linear(norm(x, key, moved), weight))
        clean_active = gated(linear(norm(y, key, original), original[name]))
        sums.add(active, units("down_proj", clean_active), y - x)
        # Stored in the dtype for products, to which the product would round it anyway.
        inside.copy_(active)
        y.copy_(y + linear(clean_active, original["down_proj"]))
    weight = choose("down_proj", *sums.finish(moved["down_proj"]))

    for x, inside in _together(inner, changed=(middle,)):
        x.copy_(x + linear(inside.float(), weight))
    return middle


def _first_weighted(inputs: torch.Tensor) -> torch.Tensor:
    """Scale inputs [windows, length, width] in place, so that the first token has its weight.

    Sums of products are weighted by the squares. The mean weight is 1.
    """
    length = inputs.shape[1]
    weight = max(1.0, FIRST_TOKEN_WEIGHT * length / _WEIGHED_LENGTH)
    inputs.mul_((length / (length - 1 + weight)) ** 0.5)
    inputs[:, 0].mul_(weight**0.5)
    return inputs


def put(hidden: Hidden, other: Hidden) -> None:
    """Copy ``other`` into ``hidden``, which has the same shape."""
    for old, new in _together(other, changed=(hidden,)):
        old.copy_(new)


def _together(*hidden: Hidden, changed: Sequence[Hidden] = ()) -> "zip[tuple[torch.Tensor, ...]]":
    """Batches of activations side by side: first those that the caller changes in place."""
    changing = [batches(each, changed=True) for each in changed]
    return zip(*changing, *map(batches, hidden), strict=True)
