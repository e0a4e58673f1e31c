"""Sizes of llama.cpp's block types; their codecs are in phi3quant.quant.codecs.ggml_blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType


@dataclass(frozen=True)
class BlockSize:
    """Size of a block type.

    Attributes:
        type: its number in the gguf library.
    """

    type: GGMLQuantizationType

    @property
    def name(self) -> str:
        """Name in llama.cpp, such as ``Q4_0``."""
        return str(self.type.name)

    @property
    def block(self) -> int:
        """Weights per block; the number of columns must be a multiple of it."""
        return int(GGML_QUANT_SIZES[self.type][0])

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` weights."""
        weights, size = GGML_QUANT_SIZES[self.type]
        return columns // int(weights) * int(size)


BLOCK_SIZES: Mapping[str, BlockSize] = {
    name: BlockSize(GGMLQuantizationType[name])
    for name in (
        *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
        *("Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    )
}
"""Sizes of the block types that can be written, by name."""

SCALE_PLACES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Byte offsets of the FP16 scale, and of the FP16 minimum or its scale, in a block by its type."""
