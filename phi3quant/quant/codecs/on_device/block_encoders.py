"""Encoders of llama.cpp's quantized block types."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch

from phi3quant.quant.codecs.ggml_blocks import TYPES
from phi3quant.quant.codecs.on_device import k_quants, legacy_quants, q3_k, table_quants
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS
from phi3quant.quant.codecs.on_device.replay import Replayed
from phi3quant.quant.codecs.on_device.tiles import tile_of

Encoded = tuple[torch.Tensor, torch.Tensor]
"""Blocks uint8 [blocks, block_bytes], and whether all weights are finite, bool []."""

_Encode = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], None]
"""Encodes a tile; arguments as in legacy_quants.py."""

# The largest matrix whose operations are replayed. The memory of a graph stays in use.
_REPLAYED_WEIGHTS = 1 << 21

ENCODERS: Mapping[str, _Encode] = {
    "Q8_0": legacy_quants.encode_bytes,
    "Q4_0": partial(legacy_quants.encode_symmetric, LAYOUTS["Q4_0"]),
    "Q4_1": partial(legacy_quants.encode_affine, LAYOUTS["Q4_1"]),
    "Q5_0": partial(legacy_quants.encode_symmetric, LAYOUTS["Q5_0"]),
    "Q5_1": partial(legacy_quants.encode_affine, LAYOUTS["Q5_1"]),
    "Q3_K": q3_k.encode,
    "Q4_K": partial(k_quants.encode_affine, LAYOUTS["Q4_K"]),
    "Q5_K": partial(k_quants.encode_affine, LAYOUTS["Q5_K"]),
    "Q6_K": k_quants.encode_signed,
    "IQ4_NL": table_quants.encode_nl,
    "IQ4_XS": table_quants.encode_xs,
}
"""Encoder of each quantized block type, by name."""


def encoding(name: str, weights: int) -> Callable[..., Encoded]:
    """Function that encodes matrices of ``weights`` weights.

    Its arguments are the weights [rows, columns] of any float dtype and, optionally, the importance
    of the columns FP32 [columns]. The blocks may be overwritten by its next call.
    """
    return _replayed(name) if weights <= _REPLAYED_WEIGHTS else partial(_encoded, name)


@cache
def _replayed(name: str) -> Replayed[Encoded]:
    return Replayed(partial(_encoded, name))


def _encoded(name: str, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Encoded:
    kind = TYPES[name]
    x = tile_of(weight, kind.group)
    each = None if importance is None else tile_of(importance[None], kind.group)
    blocks = torch.empty(
        (weight.numel() // kind.block, kind.row_bytes(kind.block)),
        dtype=torch.uint8,
        device=weight.device,
    )
    ENCODERS[name](x, each, blocks)
    return blocks, torch.isfinite(weight).all()
