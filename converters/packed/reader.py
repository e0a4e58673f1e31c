"""Reader of packed checkpoints: safetensors folders with quantized matrices."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from converters.packed.layout import PackedLayout, Unpack
from converters.packed.sizes import SplitMatrices, packed_name
from converters.packed.split_matrices import joined_rows
from phi3quant.disk.tensor_stream import DTYPE_NAMES
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    HEAD,
    LINEARS,
    Block,
    block_tensor_name,
    linear_shapes,
    tensor_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes, matrix_schemes
from phi3quant.quant.offset_tensor import OffsetTensor, fit_half, is_symmetric, zero_points
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized, QuantizedTensor
from phi3quant.source.checkpoint import SafetensorsModel
from phi3quant.units import count

_OFFSET_ENDINGS = ("scales", "biases")


@dataclass(frozen=True, kw_only=True)
class PackedCheckpoint(SafetensorsModel):
    """Packed checkpoint that implements StoredWeights by dequantizing.

    Attributes:
        schemes: schemes of the blocks' packed matrices.
        layout: layout of the matrices' tensors.
        unpack: restores a matrix, as the layout's ``unpack``.
        grouped_by_index: whether a tensor maps columns to groups in any order, not consecutively.
        plain: names of the blocks' matrices that are stored plain.
        outer: schemes of packed embedding and head by name.
        split: packed matrices that are stored in parts.
        real_offsets: whether ``matrix`` gives codes with stored offsets instead of zero points.
    """

    schemes: MatrixSchemes
    layout: PackedLayout
    unpack: Unpack
    grouped_by_index: bool = False
    plain: Collection[str] = ()
    outer: Mapping[str, QuantScheme] = field(default_factory=dict)
    split: SplitMatrices = field(default_factory=dict)
    real_offsets: bool = False

    @property
    def format(self) -> str:
        """See StoredModel."""
        return f"{self.layout.title} {self.schemes}"

    def check_codes(self) -> None:
        """Refuse models of which another format can't store the codes.

        Raises:
            SchemeError: the columns of a group are not consecutive, or some matrices are plain.
            CheckpointError: as ``dequantized``.
        """
        for name, (_, columns) in matrices(self.config):
            if name not in self.plain and self._group_index(name, columns) is not None:
                raise SchemeError(
                    f"{self.folder} maps columns to groups that are not consecutive "
                    f"({packed_name(name, str(self.layout.group_index))}), which other formats "
                    "can't store; export the original checkpoint"
                )
        if self.plain:
            plain = count(len(self.plain), "matrix", "matrices")
            raise SchemeError(
                f"{self.folder} stores {plain} plain and packs the others, which no other format "
                "can store yet; export the original checkpoint"
            )

    def with_codes(self, *, real_offsets: bool = False) -> "PackedCheckpoint":
        """This model with schemes that fit all its codes, for an export of codes.

        Matrices of one stated scheme keep a common one, which is symmetric only if all of them are.

        Args:
            real_offsets: whether the target can store offsets in place of zero points.

        Raises:
            SchemeError: as ``check_codes``, or offsets or scales don't fit the target.
            CheckpointError: as ``check_codes``.
        """
        self.check_codes()
        if self.layout.unpack_offsets is None:
            return self
        symmetric, multiples = dict.fromkeys(self.schemes.distinct, True), True
        for name, _ in matrices(self.config):
            scheme = self.schemes.scheme(name)
            scales, offsets = self._scales_and_offsets(name)
            zeros = zero_points(scales, offsets, scheme)
            if zeros is None and not real_offsets:
                raise SchemeError(
                    f"the biases of {name} in {self.folder} are not whole multiples of its scales, "
                    "so they are not zero points and the target can't store them; export gguf "
                    "(4 bits) or safetensors"
                )
            if not (fit_half(scales) and (zeros is not None or fit_half(offsets))):
                raise SchemeError(
                    f"{name} in {self.folder} has scales or biases that don't fit FP16, so the "
                    "target can't store its codes; export safetensors"
                )
            multiples &= zeros is not None
            symmetric[scheme] &= zeros is not None and is_symmetric(zeros, scheme)
        fitting = {scheme: replace(scheme, symmetric=symmetric[scheme]) for scheme in symmetric}
        schemes = {name: fitting[self.schemes.scheme(name)] for name, _ in matrices(self.config)}
        return replace(self, schemes=matrix_schemes(schemes), real_offsets=not multiples)

    def dequantized(self, index: int, key: str) -> torch.Tensor:
        """Weights of one linear, FP32 [rows, columns].

        Raises:
            CheckpointError: as ``quantized``, or sizes of groups contradict config.json.
        """
        name = block_tensor_name(index, key)
        if name in self.plain:
            return self.store.load_finite(name)
        if self.layout.unpack_offsets is not None:
            return self._with_offsets(name).dequantize()
        codes = self.quantized(index, key)
        groups = self._group_index(name, codes.shape[1])
        if groups is None:
            return codes.dequantize()
        # Columns are sorted by group, scaled, and moved back to their places.
        order = groups.argsort(stable=True)
        weights = torch.empty(codes.shape)
        weights[:, order] = replace(codes, codes=codes.codes[:, order]).dequantize()
        return weights

    def matrix(self, index: int, key: str) -> torch.Tensor | Quantized:
        """One linear as it can be exported: codes if that is all of it, otherwise floats.

        Raises:
            CheckpointError: as ``dequantized``.
        """
        if not self.has_codes(index, key):
            return self.dequantized(index, key)
        if self.real_offsets:
            return self._with_offsets(block_tensor_name(index, key))
        return self.quantized(index, key)

    def has_codes(self, index: int, key: str) -> bool:
        """Whether ``quantized`` is all of a linear: it is packed, in consecutive groups.

        Raises:
            CheckpointError: as ``dequantized``.
        """
        name = block_tensor_name(index, key)
        _, columns = linear_shapes(self.config)[key]
        return name not in self.plain and self._group_index(name, columns) is None

    def quantized(self, index: int, key: str) -> QuantizedTensor:
        """Codes, scales and zero points of one packed linear.

        Raises:
            CheckpointError: a scale is not finite or doesn't fit FP16, or offsets are not those of
                zero points.
        """
        name = block_tensor_name(index, key)
        scheme, shape = self.schemes.scheme(name), linear_shapes(self.config)[key]
        parts = self._parts(name, shape)
        return joined_rows([self._quantized(part, parts[part], scheme) for part in parts])

    def _quantized(self, name: str, shape: tuple[int, int], scheme: QuantScheme) -> QuantizedTensor:
        stored = {
            spec.name: self._as_specified(packed_name(name, spec.name))
            for spec in self.layout.specify(*shape, scheme)
            if spec.name != self.layout.group_index
        }
        try:
            tensor = self.unpack(stored, shape, scheme)
        except CheckpointError as error:
            raise CheckpointError(f"{name} in {self.folder}: {error}") from None
        if not torch.isfinite(tensor.scales).all():
            raise CheckpointError(f"the scales of {name} in {self.folder} are not all finite")
        return tensor

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self._outer(EMBEDDING)

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self._outer(EMBEDDING if self.config.tie_word_embeddings else HEAD)

    def _outer(self, name: str) -> torch.Tensor:
        if name in self.outer:
            return self._with_offsets(name).dequantize()
        return self.store.load_finite(name)

    def outer_codes(self, name: str) -> torch.Tensor | Quantized:
        """Embedding or head by name, as codes if it is packed.

        Raises:
            CheckpointError: a scale or offset is not finite, or offsets are not zero points.
        """
        if name not in self.outer:
            return self.store.load(name)
        try:
            return self._with_offsets(name).with_zero_points()
        except CheckpointError as error:
            raise CheckpointError(f"{name} in {self.folder}: {error}") from None

    def stored(self, name: str) -> torch.Tensor:
        """See SafetensorsModel."""
        return self._outer(name) if name in self.outer else self.store.load(name)

    def _with_offsets(self, name: str) -> OffsetTensor:
        """A packed matrix of a layout with offsets, by the name of the plain one.

        Raises:
            CheckpointError: a scale or offset is not finite.
        """
        assert self.layout.unpack_offsets is not None
        self._scales_and_offsets(name)
        rows, columns = tensor_shapes(self.config)[name]
        scheme = self.outer.get(name) or self.schemes.scheme(name)
        tensors = []
        for part, shape in self._parts(name, (rows, columns)).items():
            stored = {
                spec.name: self.store.load(packed_name(part, spec.name))
                for spec in self.layout.specify(*shape, scheme)
            }
            tensors.append(self.layout.unpack_offsets(stored, shape, scheme))
        return joined_rows(tensors)

    def _parts(self, name: str, shape: tuple[int, int]) -> Mapping[str, tuple[int, int]]:
        """Names and shapes of the stored parts of a matrix, which may be all of it."""
        return self.split.get(name, {name: shape})

    def _scales_and_offsets(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and offsets of a packed matrix, in their stored types [rows, groups].

        Raises:
            CheckpointError: one is not finite.
        """
        parts = tuple(self.split.get(name, (name,)))
        scales, offsets = (
            torch.cat([self.store.load(packed_name(part, end)) for part in parts])
            for end in _OFFSET_ENDINGS
        )
        if not (torch.isfinite(scales).all() and torch.isfinite(offsets).all()):
            where = f"{name} in {self.folder}"
            raise CheckpointError(f"the scales and biases of {where} are not all finite")
        return scales, offsets

    def _group_index(self, matrix: str, columns: int) -> torch.Tensor | None:
        """Group of each column, int32 [columns]; None if groups are consecutive.

        Raises:
            CheckpointError: groups have other sizes than config.json requires, or they are not
                consecutive although it requires that, or parts of the matrix have other groups.
        """
        width = self.schemes.scheme(matrix).group_width(columns)
        names = tuple(self.split.get(matrix, (matrix,)))
        first, *others = (self._part_index(name, columns, width) for name in names)
        for name, other in zip(names[1:], others, strict=True):
            if not _equal(first, other):
                raise CheckpointError(
                    f"{names[0]} and {name} in {self.folder} map their columns to different "
                    "groups, but Phi-3 has one matrix in their place; use the original checkpoint"
                )
        return first

    def _part_index(self, part: str, columns: int, width: int) -> torch.Tensor | None:
        """As ``_group_index``, of a stored part; ``width`` is the size of a group."""
        index = self.layout.group_index
        if index is None or packed_name(part, index) not in self.store.tensors:
            return None
        name = packed_name(part, index)
        groups = self.store.load(name)
        consecutive = (torch.arange(columns) // width).to(groups.dtype)
        if torch.equal(groups, consecutive):
            return None
        if not torch.equal(groups.sort().values, consecutive):
            raise CheckpointError(
                f"{name} in {self.folder} doesn't map {width} columns to each group; "
                "the checkpoint is damaged"
            )
        if not self.grouped_by_index:
            raise CheckpointError(
                f"{name} in {self.folder} maps columns to groups that are not consecutive, but "
                "config.json has desc_act false; the file and config.json don't belong together"
            )
        return groups

    def _as_specified(self, name: str) -> torch.Tensor:
        """Read a stored tensor; scales that other tools store as BF16 or FP32 become FP16."""
        loaded = self.store.load(name)
        as_stored = not loaded.is_floating_point() or loaded.dtype == torch.float16
        if as_stored or self.layout.unpack_offsets is not None:
            return loaded
        half = loaded.half()
        if torch.isfinite(loaded).all() and not torch.equal(half.to(loaded.dtype), loaded):
            raise CheckpointError(
                f"{name} in {self.folder} is {DTYPE_NAMES[loaded.dtype]} with scales that don't "
                "fit FP16; quantize the model again with FP16 scales (load it as float16 first)"
            )
        return half

    def norm(self, index: int, key: str) -> torch.Tensor:
        """Read a norm of a block as FP32."""
        return self.store.load_finite(block_tensor_name(index, key))

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return {
            key: self.dequantized(index, key) if key in LINEARS else self.norm(index, key)
            for key in BLOCK_TENSORS
        }


def matrices(config: Phi3Config) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of the blocks' matrices."""
    for index in range(config.num_hidden_layers):
        for key, shape in linear_shapes(config).items():
            yield block_tensor_name(index, key), shape


def _equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)
