"""Codecs of llama.cpp's block types, bit for bit.

Quantized types accept an importance per column. The kernels are in ggml_legacy_quants.py and
ggml_k_quants.py; the gguf library decodes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.parallel import over_rows
from phi3quant.quant.codecs import (
    ggml_k_quants,
    ggml_legacy_quants,
    ggml_q3_k,
    ggml_table_quants,
)
from phi3quant.quant.codecs.compensation import Strip, Walk, compensated_codes, corrected
from phi3quant.quant.codecs.fixed_grid_compensation import compensate_on
from phi3quant.quant.codecs.ggml_decoding import decode
from phi3quant.quant.codecs.ggml_grids import GRIDS
from phi3quant.quant.ggml_types import BlockSize
from phi3quant.quant.gram import Gram

Encode = Callable[[torch.Tensor, torch.Tensor | None], np.ndarray]
"""Encodes weights; see BlockType."""
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Encodes FP32 [weights], with the importance FP32 [columns] or an empty array, into the output
uint8 [blocks, block_bytes]."""
_Store = Callable[[torch.Tensor, np.ndarray, np.ndarray], None]
"""Like Kernel, for a tensor FP32 [rows, columns]."""


@dataclass(frozen=True)
class BlockType:
    """A block type with its encoder.

    Attributes:
        type: its number in the gguf library.
        encode: encodes weights [rows, columns] of any float dtype, with the importance FP32
            [columns] or None, into bytes uint8 [rows, row_bytes]. Raises CheckpointError if a
            weight is not finite, SchemeError if a weight doesn't fit the type.
        group: number of weights that share a scale.
    """

    type: GGMLQuantizationType
    encode: Encode
    group: int

    @property
    def size(self) -> BlockSize:
        """Size of the blocks."""
        return BlockSize(self.type)

    @property
    def name(self) -> str:
        """Name in llama.cpp, such as ``Q4_0``."""
        return self.size.name

    @property
    def block(self) -> int:
        """Weights per block; the number of columns must be a multiple of it."""
        return self.size.block

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` weights."""
        return self.size.row_bytes(columns)


@dataclass(frozen=True)
class BlockTensor:
    """A matrix stored as blocks.

    Attributes:
        kind: type of the blocks.
        data: uint8 [rows, row_bytes].
        shape: rows and columns.
    """

    kind: BlockType
    data: np.ndarray
    shape: tuple[int, int]

    def dequantize(self) -> torch.Tensor:
        """Weights that the blocks represent, FP32 [rows, columns]."""
        return torch.from_numpy(decode(self.data, self.kind.type)).view(self.shape)


@dataclass(frozen=True)
class BlockCodec:
    """Codec for a block type; implements codecs.Codec."""

    kind: BlockType

    def group_width(self, columns: int) -> int:
        """See Codec."""
        if columns % self.kind.block:
            raise SchemeError(
                f"rows of {columns} weights are not a whole number of {self.kind.name}'s blocks of "
                f"{self.kind.block} weights"
            )
        return self.kind.group

    def quantize(self, weight: torch.Tensor) -> BlockTensor:
        """See Codec."""
        return self._encoded(weight, None)

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> BlockTensor:
        """See Codec; the search weights each column by the mean square of its input."""
        return self._encoded(weight, gram.diagonal())

    def quantize_compensated(
        self, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor | None = None
    ) -> BlockTensor | None:
        """See Codec; the scales are those of quantize_fitted, because a superblock couples them."""
        grid = GRIDS.get(self.kind.name)
        if grid is None:
            return None
        rows, columns = weight.shape
        if shortfall is not None:
            weight = corrected(weight, gram, shortfall)
        data = self.quantize_fitted(weight, gram).data
        blocks = data.reshape(-1, self.kind.row_bytes(self.kind.block))
        scales, least = (part.reshape(rows, -1) for part in grid.read(blocks))

        def choose(strip: Strip) -> None:
            grids = (scales[strip.rows][:, strip.groups], least[strip.rows][:, strip.groups])
            compensate_on(
                strip.weights, strip.factor, grids, grid.values, strip.codes, strip.errors
            )

        codes = compensated_codes(weight, Walk.of(gram, self.kind.group), choose)
        grid.put(blocks, codes.numpy().reshape(-1, self.kind.block))
        return BlockTensor(self.kind, data, (rows, columns))

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """See Codec."""
        return self.quantize(weight).dequantize()

    def _encoded(self, weight: torch.Tensor, importance: torch.Tensor | None) -> BlockTensor:
        rows, columns = weight.shape
        self.group_width(columns)
        return BlockTensor(self.kind, self.kind.encode(weight, importance), (rows, columns))


def _float(kind: GGMLQuantizationType, dtype: torch.dtype) -> BlockType:
    def store(values: torch.Tensor, _importance: np.ndarray, packed: np.ndarray) -> None:
        stored = values.to(dtype)
        if not torch.isfinite(stored).all():
            raise SchemeError(
                f"a weight of {float(values.abs().max()):g} doesn't fit {kind.name}; "
                "choose BF16 or F32"
            )
        packed[:] = stored.contiguous().view(torch.uint8).view(packed.shape).numpy()

    return _block_type(kind, store, 1)


def _quantized(kind: GGMLQuantizationType, kernel: Kernel, group: int = 32) -> BlockType:
    def store(values: torch.Tensor, importance: np.ndarray, packed: np.ndarray) -> None:
        kernel(values.numpy().reshape(-1), importance, packed)

    return _block_type(kind, store, group)


def _block_type(kind: GGMLQuantizationType, store: _Store, group: int) -> BlockType:
    block, block_bytes = (int(number) for number in GGML_QUANT_SIZES[kind])

    def encode(weight: torch.Tensor, importance: torch.Tensor | None) -> np.ndarray:
        rows, columns = weight.view(-1, weight.shape[-1]).shape
        weights = np.empty(0, np.float32) if importance is None else importance.numpy()
        packed = np.empty((rows, columns // block, block_bytes), np.uint8)
        every = weight.view(rows, columns)

        def encode_part(part: slice) -> None:
            # Conversion and checks are done here, where a part fits into a core's cache.
            values = every[part].float()
            if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
                raise CheckpointError("it holds NaN or infinity, or weights too large to quantize")
            store(values, weights, packed[part].reshape(-1, block_bytes))

        over_rows(rows, columns, encode_part)
        return packed.reshape(*weight.shape[:-1], -1)

    return BlockType(kind, encode, group)


def _with_codes_to(highest: int, kernel: Callable[..., None]) -> Kernel:
    return lambda weights, importance, packed: kernel(weights, importance, highest, packed)


def _encode_bytes(weights: np.ndarray, _importance: np.ndarray, packed: np.ndarray) -> None:
    ggml_legacy_quants.encode_bytes(weights, packed)


_Types = GGMLQuantizationType
TYPES: Mapping[str, BlockType] = {
    entry.name: entry
    for entry in (
        _float(_Types.F32, torch.float32),
        _float(_Types.F16, torch.float16),
        _float(_Types.BF16, torch.bfloat16),
        _quantized(_Types.Q8_0, _encode_bytes),
        _quantized(_Types.Q4_0, _with_codes_to(15, ggml_legacy_quants.encode_symmetric)),
        _quantized(_Types.Q4_1, _with_codes_to(15, ggml_legacy_quants.encode_affine)),
        _quantized(_Types.Q5_0, _with_codes_to(31, ggml_legacy_quants.encode_symmetric)),
        _quantized(_Types.Q5_1, _with_codes_to(31, ggml_legacy_quants.encode_affine)),
        _quantized(_Types.Q3_K, ggml_q3_k.encode, 16),
        _quantized(_Types.Q4_K, _with_codes_to(15, ggml_k_quants.encode_affine)),
        _quantized(_Types.Q5_K, _with_codes_to(31, ggml_k_quants.encode_affine)),
        _quantized(_Types.Q6_K, ggml_k_quants.encode_signed, 16),
        _quantized(_Types.IQ4_NL, ggml_table_quants.encode_nl),
        _quantized(_Types.IQ4_XS, ggml_table_quants.encode_xs),
    )
}
"""Block types that can be written, by name."""
