"""Packed checkpoints: a folder like the original's, with quantized matrices. Written and read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from converters.companions import carry_along, write_config
from converters.format import Format, Source
from converters.half import to_half
from converters.packed.layout import PackedLayout, Stated
from converters.packed.sizes import packed_name, packed_tensors
from phi3quant.disk.tensor_plan import SHARD_BYTES, PlannedTensor
from phi3quant.disk.tensor_stream import DTYPE_NAMES, SafetensorsStream, spec_of
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    Block,
    block_tensor_name,
    linear_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.source.checkpoint import linear_bytes, untied_if_different
from phi3quant.source.tensor_folder import FLOAT_DTYPES, TensorFolder, check_tensors
from phi3quant.source.unread_tensors import refuse_explained, refuse_unread

_GROUP_INDEX = "weight_g_idx"
"""Ending of the tensor that maps columns to groups: int32 [columns]."""


def packed_format(layout: PackedLayout) -> Format:
    """A layout of packed checkpoints as a format to write."""
    return Format(
        name=layout.name,
        title=layout.title,
        check=layout.check,
        nbytes=lambda config, scheme: sum(
            planned.nbytes for planned in packed_plan(config, scheme, layout)
        ),
        open=lambda folder, source, scheme: PackedWriter(folder, source, scheme, layout),
    )


class PackedWriter:
    """Streams a quantized model into a folder, block by block.

    Norms, embedding and head are stored as FP16 beside the packed matrices.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        scheme: QuantScheme,
        layout: PackedLayout,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        config = source.config
        layout.check(scheme, config)
        self._folder, self._source = folder, source.folder
        self._config, self._scheme, self._layout = config, scheme, layout
        folder.mkdir(parents=True, exist_ok=True)
        specs = [spec_of(planned) for planned in packed_plan(config, scheme, layout)]
        self._stream = SafetensorsStream(folder, specs, shard_bytes)

    def complete(self) -> None:
        """See Completable."""
        self._stream.complete()
        described = self._layout.describe(self._scheme)
        write_config(
            self._folder, self._config, torch_dtype="float16", quantization_config=described
        )
        carry_along(self._source, self._folder)

    def abandon(self) -> None:
        """See Completable."""
        self._stream.abandon()

    @property
    def hashed(self) -> Mapping[str, Mapping[str, Any]]:
        """See ModelWriter."""
        return self._stream.hashed

    def embedding(self, weight: torch.Tensor) -> None:
        """Write the token embeddings [vocab, hidden]; comes first."""
        self._stream.write(EMBEDDING, to_half(EMBEDDING, weight))

    def block(self, index: int, block: QuantizedBlock) -> None:
        """Write the next block."""
        for key in BLOCK_TENSORS:
            name = block_tensor_name(index, key)
            if key not in LINEARS:
                self._stream.write(name, to_half(name, block.norms[key]))
                continue
            codes = block.linears[key]
            if not isinstance(codes, QuantizedTensor):
                raise TypeError(f"{self._layout.name} holds codes, not a {type(codes).__name__}")
            for ending, tensor in self._layout.pack(codes).items():
                self._stream.write(packed_name(name, ending), tensor)

    def final(self, norm: torch.Tensor, head: torch.Tensor | None) -> None:
        """Write the last norm [hidden] and, of an untied model, the head [vocab, hidden]."""
        self._stream.write(FINAL_NORM, to_half(FINAL_NORM, norm))
        if head is not None:
            self._stream.write(HEAD, to_half(HEAD, head))


def packed_plan(
    config: Phi3Config, scheme: QuantScheme, layout: PackedLayout
) -> list[PlannedTensor]:
    """Every tensor of a packed checkpoint, in the order of writing."""
    return packed_tensors(config, scheme, layout.specify)


@dataclass(frozen=True)
class PackedCheckpoint:
    """A packed checkpoint read back; implements ModelWeights by dequantizing.

    Attributes:
        folder: of the model.
        config: of its weights.
        store: its tensors.
        scheme: of all matrices.
        layout: of their tensors.
        grouped_by_index: whether columns are mapped to groups; if not, groups follow one another.
        notes: see StoredModel.
    """

    folder: Path
    config: Phi3Config
    store: TensorFolder
    scheme: QuantScheme
    layout: PackedLayout
    grouped_by_index: bool = False
    notes: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """See StoredModel."""
        return f"{self.layout.title} {self.scheme}"

    @property
    def files(self) -> Sequence[Path]:
        """See StoredModel."""
        return (self.folder / "config.json", *self.store.files)

    @property
    def weight_bytes(self) -> int:
        """See StoredModel."""
        return self.store.nbytes()

    @property
    def linear_bytes(self) -> int:
        """See StoredModel."""
        return linear_bytes(self.store, self.config)

    def quantized(self, index: int, key: str) -> QuantizedTensor:
        """Codes, scales and zero points of one linear.

        Raises:
            CheckpointError: a scale is not finite, or FP16 doesn't hold it.
            SchemeError: the columns of a group don't follow one another.
        """
        if self.grouped_by_index:
            raise SchemeError(
                f"{self.folder} maps columns to groups ({_GROUP_INDEX}, actorder 'group'), which "
                "its codes can't be stored with elsewhere; export the original checkpoint"
            )
        return self._quantized(index, key)

    def dequantized(self, index: int, key: str) -> torch.Tensor:
        """Weights of one linear, FP32 [rows, columns].

        Raises:
            CheckpointError: as ``quantized``, or groups have other sizes than config.json states.
        """
        codes = self._quantized(index, key)
        if not self.grouped_by_index:
            return codes.dequantize()
        name = packed_name(block_tensor_name(index, key), _GROUP_INDEX)
        groups = self.store.load(name)
        width = self.scheme.group_width(codes.shape[1])
        expected = torch.arange(codes.shape[1]) // width
        if not torch.equal(groups.sort().values.to(expected.dtype), expected):
            raise CheckpointError(
                f"{name} in {self.folder} doesn't map {width} columns to each group; "
                "the checkpoint is damaged"
            )
        # The codes of a group next to one another, as they are scaled, then back in their places.
        order = groups.argsort(stable=True)
        weights = torch.empty(codes.shape)
        weights[:, order] = replace(codes, codes=codes.codes[:, order]).dequantize()
        return weights

    def _quantized(self, index: int, key: str) -> QuantizedTensor:
        rows, columns = linear_shapes(self.config)[key]
        name = block_tensor_name(index, key)
        stored = {
            spec.name: self._as_specified(packed_name(name, spec.name))
            for spec in self.layout.specify(rows, columns, self.scheme)
        }
        try:
            tensor = self.layout.unpack(stored, (rows, columns), self.scheme)
        except CheckpointError as error:
            raise CheckpointError(f"{name} in {self.folder}: {error}") from None
        if not torch.isfinite(tensor.scales).all():
            raise CheckpointError(f"the scales of {name} in {self.folder} are not all finite")
        return tensor

    def _as_specified(self, name: str) -> torch.Tensor:
        """A stored tensor; scales, which other tools keep as BF16 or FP32, as FP16."""
        loaded = self.store.load(name)
        if not loaded.is_floating_point() or loaded.dtype == torch.float16:
            return loaded
        half = loaded.half()
        if torch.isfinite(loaded).all() and not torch.equal(half.to(loaded.dtype), loaded):
            raise CheckpointError(
                f"{name} in {self.folder} is {DTYPE_NAMES[loaded.dtype]} with scales that FP16 "
                "doesn't hold; make the model anew with FP16 scales (load it as float16 first)"
            )
        return half

    def norm(self, index: int, key: str) -> torch.Tensor:
        """A tensor of a block that is not packed, FP32."""
        return self.store.load_finite(block_tensor_name(index, key))

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING)

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return {
            key: self.dequantized(index, key) if key in LINEARS else self.norm(index, key)
            for key in BLOCK_TENSORS
        }

    def final_norm(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(FINAL_NORM)

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING if self.config.tie_word_embeddings else HEAD)


def open_packed(
    store: TensorFolder, stored_config: Phi3Config, stated: Stated, layout: PackedLayout
) -> PackedCheckpoint:
    """Check the headers of a packed checkpoint against what its config announces.

    Raises:
        CheckpointError: a tensor is missing, has another dtype or shape, or is left plain.
        SchemeError: the scheme doesn't fit the model.
    """
    config, notes = untied_if_different(store, stored_config)
    layout.check(stated.scheme, config)
    _refuse_plain_parts(store, config, stated)
    planned = packed_plan(config, stated.scheme, layout)
    if stated.grouped_by_index:
        planned += [
            PlannedTensor(packed_name(block_tensor_name(index, key), _GROUP_INDEX), "I32", (width,))
            for index in range(config.num_hidden_layers)
            for key, (_, width) in linear_shapes(config).items()
        ]
    known = {HEAD, *(spec.name for spec in planned)}
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
                f"config.json calls for {spec.dtype} {list(spec.shape)}"
            )
    check_tensors(store, floats)
    notes += refuse_unread(store.folder, store.tensors, known, config)
    return PackedCheckpoint(
        store.folder,
        config,
        store,
        stated.scheme,
        layout,
        stated.grouped_by_index,
        (*store.notes, *notes),
    )


def _refuse_plain_parts(store: TensorFolder, config: Phi3Config, stated: Stated) -> None:
    """Refuse checkpoints in which some matrices of the blocks are packed and others plain."""
    for index in range(config.num_hidden_layers):
        for key in LINEARS:
            name = block_tensor_name(index, key)
            module = name.removesuffix(".weight")
            if name in store.tensors or module in stated.plain:
                listed = ", as config.json lists it" if module in stated.plain else ""
                raise CheckpointError(
                    f"{store.folder} leaves {module} plain{listed}, and packs other matrices; "
                    "checkpoints that are packed in part can't be read, give the original one"
                )
