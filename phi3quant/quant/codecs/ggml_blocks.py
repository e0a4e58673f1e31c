"""The block codecs: rows of weights as the bytes of llama.cpp's types, bit for bit.

Quantized types take an importance for each column; legacy_quants.py and k_quants.py have the
kernels. What is stored is read by the gguf library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.parallel import over_rows
from phi3quant.quant.codecs import ggml_k_quants, ggml_legacy_quants
from phi3quant.quant.codecs.affine_search import compensate_on
from phi3quant.quant.codecs.compensation import Strip, Walk, compensated_codes, corrected
from phi3quant.quant.codecs.ggml_grids import GRIDS
from phi3quant.quant.ggml_types import BlockSize
from phi3quant.quant.gram import Gram

Encode = Callable[[torch.Tensor, torch.Tensor | None], np.ndarray]
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Fills uint8 [blocks, block_bytes] from FP32 [weights] and the importance [columns] or [0]."""
_Store = Callable[[torch.Tensor, np.ndarray, np.ndarray], None]
"""A Kernel that takes FP32 [rows, columns]."""


@dataclass(frozen=True)
class BlockType:
    """A way to store the rows of a matrix.

    Attributes:
        type: the gguf library's number for it.
        encode: weights [rows, columns] of any float type, and the importance of each column (FP32)
            if there is one, to bytes uint8 [rows, row_bytes]. Raises CheckpointError if a weight is
            not finite, SchemeError if one doesn't fit the type.
        group: weights that share a scale.
    """

    type: GGMLQuantizationType
    encode: Encode
    group: int

    @property
    def size(self) -> BlockSize:
        """What it takes."""
        return BlockSize(self.type)

    @property
    def name(self) -> str:
        """As llama.cpp writes it, such as ``Q4_0``."""
        return self.size.name

    @property
    def block(self) -> int:
        """Weights in a block; rows hold a whole number of blocks."""
        return self.size.block

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` weights."""
        return self.size.row_bytes(columns)


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

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> BlockTensor:
        """See Codec; the search weighs each column by its input's mean square."""
        return self._encoded(weight, gram.diagonal())

    def quantize_compensated(
        self, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor | None = None
    ) -> BlockTensor | None:
        """See Codec: the scales of quantize_fitted, since a superblock's depend on one another."""
        found = GRIDS.get(self.kind.name)
        if found is None:
            return None
        rows, columns = weight.shape
        if shortfall is not None:
            weight = corrected(weight, gram, shortfall)
        data = self.quantize_fitted(weight, gram).data
        blocks = data.reshape(-1, self.kind.row_bytes(self.kind.block))
        scales, least = (part.reshape(rows, -1) for part in found.read(blocks))

        def choose(strip: Strip) -> None:
            grids = (scales[strip.rows][:, strip.groups], least[strip.rows][:, strip.groups])
            compensate_on(
                strip.weights, strip.factor, grids, found.highest, strip.codes, strip.errors
            )

        codes = compensated_codes(weight, Walk.of(gram, self.kind.group), choose)
        found.put(blocks, codes.numpy().reshape(-1, self.kind.block))
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
            # Converted and checked here, where a part fits a core's cache.
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
        _quantized(_Types.Q4_K, _with_codes_to(15, ggml_k_quants.encode_affine)),
        _quantized(_Types.Q5_K, _with_codes_to(31, ggml_k_quants.encode_affine)),
        _quantized(_Types.Q6_K, ggml_k_quants.encode_signed, 16),
    )
}
"""Block types that can be written, by name."""
