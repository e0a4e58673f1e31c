"""Check of the FP16 scales inside GGUF blocks: scales beyond FP16's range are refused."""

from collections.abc import Mapping

import numpy as np

from phi3quant.errors import CheckpointError
from phi3quant.quant.ggml_types import SCALE_PLACES, BlockSize

_PLACES: Mapping[str, tuple[int, ...]] = {"F16": (0,), **SCALE_PLACES}
"""Byte offsets of the FP16 numbers in a block by its type; in F16 the number is a weight."""

_EXPONENT = 0x7C
"""Bits of an FP16 number's upper byte that are all set only in infinity and NaN."""
_CHUNK_BYTES = 1 << 24


def check_scales(size: BlockSize, data: np.ndarray) -> None:
    """Refuse blocks with a scale or minimum that isn't finite.

    Args:
        size: type of the blocks.
        data: uint8 [rows, row_bytes].

    Raises:
        CheckpointError: there is such a block.
    """
    places = _PLACES.get(size.name, ())
    width = size.row_bytes(size.block)
    blocks = data.reshape(-1, width)
    step = max(1, _CHUNK_BYTES // width)
    for start in range(0, len(blocks), step):
        for place in places:
            upper = blocks[start : start + step, place + 1]
            if ((upper & _EXPONENT) == _EXPONENT).any():
                raise CheckpointError(
                    f"a group of its weights needs a scale above 65504, which {size.name} can't "
                    "hold; choose BF16 or F32 for it, or repair the checkpoint"
                )
