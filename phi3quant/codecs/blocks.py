"""The block codecs: rows of weights as the bytes of llama.cpp's types.

Float and legacy types are encoded by the gguf library, which matches llama.cpp bit for bit,
K-quants by k_quants.py, which does too and takes an importance for each column.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from phi3quant.codecs import k_quants
from phi3quant.errors import SchemeError

Encode = Callable[[torch.Tensor, torch.Tensor | None], np.ndarray]


@dataclass(frozen=True)
class BlockType:
    """A way to store the rows of a matrix.

    Attributes:
        type: the gguf library's number for it.
        encode: FP32 [rows, columns] and the importance of each column, if the type can use that, as
            an array of bytes [rows, row_bytes] (or of floats, for the float types).
        group: weights that share a scale.
    """

    type: GGMLQuantizationType
    encode: Encode
    group: int

    @property
    def name(self) -> str:
        """As llama.cpp writes it, such as ``Q4_0``."""
        return str(self.type.name)

    @property
    def block(self) -> int:
        """Weights in a block; rows hold a whole number of blocks."""
        return int(GGML_QUANT_SIZES[self.type][0])

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` weights."""
        weights, size = GGML_QUANT_SIZES[self.type]
        return columns // int(weights) * int(size)


@dataclass(frozen=True)
class BlockTensor:
    """A matrix as blocks.

    Attributes:
        kind: their type.
        data: uint8 [rows, row_bytes].
        shape: rows and columns.
    """

    kind: BlockType
    data: np.ndarray
    shape: tuple[int, int]

    def dequantize(self) -> torch.Tensor:
        """The weights that the blocks stand for, FP32 [rows, columns]."""
        return torch.from_numpy(quants.dequantize(self.data, self.kind.type)).view(self.shape)


@dataclass(frozen=True)
class BlockCodec:
    """A block type as a method uses it; see codecs.Codec."""

    kind: BlockType

    def group_width(self, columns: int) -> int:
        """See Codec."""
        if columns % self.kind.block:
            raise SchemeError(
                f"rows of {columns} weights are not a whole number of {self.kind.name}'s blocks of "
                f"{self.kind.block}"
            )
        return self.kind.group

    def quantize(self, weight: torch.Tensor) -> BlockTensor:
        """See Codec."""
        return self._encoded(weight, None)

    def quantize_fitted(self, weight: torch.Tensor, gram: torch.Tensor) -> BlockTensor:
        """See Codec; the search weighs each column by its input's mean square."""
        return self._encoded(weight, gram.diagonal().contiguous())

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """See Codec."""
        return self.quantize(weight).dequantize()

    def _encoded(self, weight: torch.Tensor, importance: torch.Tensor | None) -> BlockTensor:
        rows, columns = weight.shape
        self.group_width(columns)
        return BlockTensor(self.kind, self.kind.encode(weight, importance), (rows, columns))


def _by_library(kind: GGMLQuantizationType, group: int = 32) -> BlockType:
    return BlockType(kind, lambda weight, _importance: quants.quantize(weight.numpy(), kind), group)


def _k_quant(kind: GGMLQuantizationType, encode: k_quants.Encode, group: int) -> BlockType:
    return BlockType(kind, lambda weight, importance: encode(weight, importance).numpy(), group)


_Types = GGMLQuantizationType
TYPES: Mapping[str, BlockType] = {
    entry.name: entry
    for entry in (
        *(_by_library(kind, 1) for kind in (_Types.F32, _Types.F16, _Types.BF16)),
        *(_by_library(kind) for kind in (_Types.Q8_0, _Types.Q4_0, _Types.Q4_1)),
        *(_by_library(kind) for kind in (_Types.Q5_0, _Types.Q5_1)),
        _k_quant(_Types.Q4_K, k_quants.encode_q4_k, 32),
        _k_quant(_Types.Q5_K, k_quants.encode_q5_k, 32),
        _k_quant(_Types.Q6_K, k_quants.encode_q6_k, 16),
    )
}
"""Block types that can be written, by name."""
