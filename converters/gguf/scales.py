"""FP16 scales inside GGUF blocks: a group that needs a larger one than FP16 holds is refused."""

from collections.abc import Mapping

import numpy as np

from phi3quant.errors import CheckpointError
from phi3quant.quant.ggml_types import BlockSize

_SCALES: Mapping[str, tuple[int, ...]] = {
    "F16": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Where the FP16 numbers of a block begin, in bytes; of F16 these are the weights."""

_EXPONENT = 0x7C
"""Bits of an FP16 number's upper byte that are all set in infinity and NaN alone."""
_CHUNK_BYTES = 1 << 24


def check_scales(size: BlockSize, data: np.ndarray) -> None:
    """Refuse blocks with a scale or minimum that isn't finite.

    Args:
        size: the type of the blocks.
        data: uint8 [rows, row_bytes].

    Raises:
        CheckpointError: there is one.
    """
    places = _SCALES.get(size.name, ())
    width = size.row_bytes(size.block)
    blocks = data.reshape(-1, width)
    step = max(1, _CHUNK_BYTES // width)
    for start in range(0, len(blocks), step):
        for place in places:
            upper = blocks[start : start + step, place + 1]
            if ((upper & _EXPONENT) == _EXPONENT).any():
                raise CheckpointError(
                    f"a group of its weights needs a scale past 65504, which {size.name} can't "
                    "hold; choose BF16 or F32 for it, or mend the checkpoint"
                )
