"""Decoding of llama.cpp's block types by the gguf library, with a bounded amount of memory."""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from phi3quant.parallel import over_rows


def decode(data: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Weights that blocks represent, FP32 [rows, columns].

    The library makes several FP32 copies of what it decodes, so it gets a part of the rows at once.

    Args:
        data: uint8 [rows, row_bytes].
        kind: type of the blocks.

    Raises:
        NotImplementedError: the library can't decode the type.
    """
    rows, row_bytes = data.shape
    block, block_bytes = GGML_QUANT_SIZES[kind]
    weights = np.empty((rows, row_bytes // block_bytes * block), np.float32)

    def decode_part(part: slice) -> None:
        # Callers check for scales that are not finite.
        with np.errstate(all="ignore"):
            weights[part] = quants.dequantize(data[part], kind)

    over_rows(rows, weights.shape[1], decode_part)
    return weights
