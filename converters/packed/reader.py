"""Reader of packed checkpoints: safetensors folders with quantized matrices."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch

from converters.packed.layout import PackedLayout, Stated, Unpack
from converters.packed.sizes import packed_name, packed_tensors
from phi3quant.disk.tensor_plan import PlannedTensor
from phi3quant.disk.tensor_stream import DTYPE_NAMES
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    HEAD,
    LINEARS,
    Block,
    block_tensor_name,
    linear_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.source.checkpoint import SafetensorsModel, untied_if_different
from phi3quant.source.tensor_folder import FLOAT_DTYPES, TensorFolder, check_tensors
from phi3quant.source.unread_tensors import refuse_explained, refuse_unread
from phi3quant.units import count


@dataclass(frozen=True, kw_only=True)
class PackedCheckpoint(SafetensorsModel):
    """Packed checkpoint that implements StoredWeights by dequantizing.

    Attributes:
        scheme: scheme of all matrices.
        layout: layout of the matrices' tensors.
        unpack: restores a matrix, as the layout's ``unpack``.
        grouped_by_index: whether a tensor maps columns to groups in any order; otherwise groups are
            consecutive.
        plain: names of the matrices that are stored plain.
    """

    scheme: QuantScheme
    layout: PackedLayout
    unpack: Unpack
    grouped_by_index: bool = False
    plain: Collection[str] = ()

    @property
    def format(self) -> str:
        """See StoredModel."""
        return f"{self.layout.title} {self.scheme}"

    def check_codes(self) -> None:
        """Refuse models of which another format can't store the codes.

        Raises:
            SchemeError: the columns of a group are not consecutive, or some matrices are plain.
            CheckpointError: as ``dequantized``.
        """
        for name, (_, columns) in _matrices(self.config):
            if name not in self.plain and self._group_index(name, columns) is not None:
                raise SchemeError(
                    f"{self.folder} maps columns to groups that are not consecutive "
                    f"({packed_name(name, str(self.layout.group_index))}), which other formats "
                    "can't store; export the original checkpoint"
                )
        if self.plain:
            raise SchemeError(
                f"{self.folder} stores {count(len(self.plain), 'matrix', 'matrices')} plain and "
                "packs the others, which no other format can store yet; export the original "
                "checkpoint"
            )

    def dequantized(self, index: int, key: str) -> torch.Tensor:
        """Weights of one linear, FP32 [rows, columns].

        Raises:
            CheckpointError: as ``quantized``, or sizes of groups contradict config.json.
        """
        if block_tensor_name(index, key) in self.plain:
            return self.store.load_finite(block_tensor_name(index, key))
        codes = self.quantized(index, key)
        groups = self._group_index(block_tensor_name(index, key), codes.shape[1])
        if groups is None:
            return codes.dequantize()
        # Columns are sorted by group, scaled, and moved back to their places.
        order = groups.argsort(stable=True)
        weights = torch.empty(codes.shape)
        weights[:, order] = replace(codes, codes=codes.codes[:, order]).dequantize()
        return weights

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
            CheckpointError: a scale is not finite, or doesn't fit FP16.
        """
        rows, columns = linear_shapes(self.config)[key]
        name = block_tensor_name(index, key)
        stored = {
            spec.name: self._as_specified(packed_name(name, spec.name))
            for spec in self.layout.specify(rows, columns, self.scheme)
            if spec.name != self.layout.group_index
        }
        try:
            tensor = self.unpack(stored, (rows, columns), self.scheme)
        except CheckpointError as error:
            raise CheckpointError(f"{name} in {self.folder}: {error}") from None
        if not torch.isfinite(tensor.scales).all():
            raise CheckpointError(f"the scales of {name} in {self.folder} are not all finite")
        return tensor

    def _group_index(self, matrix: str, columns: int) -> torch.Tensor | None:
        """Group of each column, int32 [columns]; None if groups are consecutive.

        Raises:
            CheckpointError: groups have other sizes than config.json requires, or they are not
                consecutive although it requires that.
        """
        index = self.layout.group_index
        if index is None or packed_name(matrix, index) not in self.store.tensors:
            return None
        name = packed_name(matrix, index)
        groups = self.store.load(name)
        width = self.scheme.group_width(columns)
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
        if not loaded.is_floating_point() or loaded.dtype == torch.float16:
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


def open_packed(
    store: TensorFolder, stored_config: Phi3Config, stated: Stated, layout: PackedLayout
) -> PackedCheckpoint:
    """Open a packed checkpoint after checking its headers against config.json.

    Raises:
        CheckpointError: a tensor is missing, has another dtype or shape, or is not quantized.
        SchemeError: the scheme doesn't fit the model.
    """
    config, notes = untied_if_different(store, stored_config)
    layout.check(stated.scheme, config)
    plain = _plain_matrices(store, config, stated)
    planned = _planned_tensors(store, config, stated, layout, plain)
    known = {HEAD, *(spec.name for spec in planned), *_zero_biases(store, config)}
    refuse_explained(store.folder, store.tensors, known, config)
    floats: dict[str, tuple[int, ...]] = {}
    for spec in planned:
        stored = store.tensors.get(spec.name)
        if spec.dtype in FLOAT_DTYPES:
            floats[spec.name] = spec.shape
        elif stored is None:
            raise CheckpointError(f"{store.folder} has no tensor {spec.name}")
        elif stored.shape != spec.shape or stored.dtype != spec.dtype:
            raise CheckpointError(
                f"tensor {spec.name} in {stored.file} is {stored.dtype} {list(stored.shape)}; "
                f"config.json requires {spec.dtype} {list(spec.shape)}"
            )
    check_tensors(store, floats)
    notes += refuse_unread(store.folder, store.tensors, known, config)
    return PackedCheckpoint(
        store.folder,
        config,
        store,
        (*store.notes, *notes),
        scheme=stated.scheme,
        layout=layout,
        unpack=stated.unpack or layout.unpack,
        grouped_by_index=stated.grouped_by_index,
        plain=plain,
    )


def _matrices(config: Phi3Config) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of the blocks' matrices."""
    for index in range(config.num_hidden_layers):
        for key, shape in linear_shapes(config).items():
            yield block_tensor_name(index, key), shape


def _planned_tensors(
    store: TensorFolder,
    config: Phi3Config,
    stated: Stated,
    layout: PackedLayout,
    plain: Collection[str],
) -> list[PlannedTensor]:
    """Tensors that the checkpoint must have.

    An index of groups is required if columns may be in any order, and optional otherwise.
    """
    planned = packed_tensors(config, stated.scheme, layout.specify, plain)
    if layout.group_index is None:
        return planned
    indices = {
        packed_name(name, layout.group_index): columns
        for name, (_, columns) in _matrices(config)
        if name not in plain
    }
    if not stated.grouped_by_index:
        absent = indices.keys() - store.tensors.keys()
        return [spec for spec in planned if spec.name not in absent]
    others = [spec for spec in planned if spec.name not in indices]
    return others + [PlannedTensor(name, "I32", (columns,)) for name, columns in indices.items()]


def _zero_biases(store: TensorFolder, config: Phi3Config) -> Iterator[str]:
    """Names of biases that are zero, which AutoGPTQ writes for every matrix."""
    for name, (rows, _) in _matrices(config):
        bias = store.tensors.get(packed_name(name, "bias"))
        if bias is not None and bias.dtype in FLOAT_DTYPES and bias.shape == (rows,):
            values = store.load(packed_name(name, "bias"))
            if not values.any():
                yield packed_name(name, "bias")


def _plain_matrices(store: TensorFolder, config: Phi3Config, stated: Stated) -> frozenset[str]:
    """Names of the matrices that are stored plain, which config.json must list.

    Raises:
        CheckpointError: config.json and the tensors contradict each other.
    """
    plain = frozenset(name for name, _ in _matrices(config) if name in store.tensors)
    for name, _ in _matrices(config):
        module = name.removesuffix(".weight")
        if name in plain and not stated.may_be_plain(module):
            raise CheckpointError(
                f"{store.folder} stores {module} plain, which its quantization_config doesn't "
                "list; the file and config.json don't belong together"
            )
        if name not in plain and module in stated.plain:
            raise CheckpointError(
                f"the quantization_config of {store.folder} lists {module} as plain, but there is "
                f"no tensor {name}; the file and config.json don't belong together"
            )
    return plain
