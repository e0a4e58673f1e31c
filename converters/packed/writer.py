"""Writer of packed checkpoints: a folder like the original, with quantized matrices."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from converters.companions import carry_along, write_config
from converters.format import Format, Source
from converters.half import to_half
from converters.packed.layout import PackedLayout
from converters.packed.sizes import packed_name, packed_tensors
from converters.packed.split_matrices import split_rows
from phi3quant.disk.tensor_plan import SHARD_BYTES, PlannedTensor
from phi3quant.disk.tensor_stream import SafetensorsStream, spec_of
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    block_tensor_name,
)
from phi3quant.model.config import Phi3Config
from phi3quant.notices import notify
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import affine
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.tensor import Quantized, QuantizedTensor, floats


def packed_format(layout: PackedLayout) -> Format:
    """Format for a layout of packed checkpoints."""
    return Format(
        name=layout.name,
        title=layout.title,
        check=partial(_check, layout),
        nbytes=lambda config, schemes: packed_bytes(config, schemes, layout),
        open=lambda folder, source, schemes: PackedWriter(folder, source, schemes, layout),
        real_offsets=layout.pack_offsets is not None,
    )


def packed_bytes(config: Phi3Config, schemes: MatrixSchemes, layout: PackedLayout) -> int:
    """Bytes of all tensors in a layout."""
    return sum(planned.nbytes for planned in _planned(config, schemes, layout))


def _planned(
    config: Phi3Config, schemes: MatrixSchemes, layout: PackedLayout
) -> list[PlannedTensor]:
    outer = layout.outer(config, schemes.base)
    split = layout.split(config, schemes)
    return packed_tensors(config, schemes, layout.specify, outer=outer, split=split)


def _check(layout: PackedLayout, schemes: MatrixSchemes, config: Phi3Config) -> None:
    layout.check(schemes, config)
    layout.outer(config, schemes.base)


class PackedWriter:
    """Writer of a quantized model into a folder, block by block.

    Norms are stored as FP16, and so are embedding and head unless the layout packs them, rounded to
    nearest.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        schemes: MatrixSchemes,
        layout: PackedLayout,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        config = source.config
        _check(layout, schemes, config)
        self._outer = layout.outer(config, schemes.base)
        self._split = layout.split(config, schemes)
        self._folder, self._source = folder, source.folder
        self._config, self._schemes, self._layout = config, schemes, layout
        notify(layout.notes(config, schemes))
        folder.mkdir(parents=True, exist_ok=True)
        specs = [spec_of(planned) for planned in _planned(config, schemes, layout)]
        self._stream = SafetensorsStream(folder, specs, shard_bytes, layout.library)

    def complete(self) -> None:
        """See Completable."""
        self._stream.complete()
        description = self._layout.describe(self._schemes)
        for name, scheme in self._outer.items():
            description[name.removesuffix(".weight")] = self._layout.describe(MatrixSchemes(scheme))
        described = dict.fromkeys(self._layout.config_keys, description)
        adapted = self._layout.adapt_config(self._config)
        write_config(self._folder, self._config, torch_dtype="float16", **adapted, **described)
        carry_along(self._source, self._folder)

    def abandon(self) -> None:
        """See Completable."""
        self._stream.abandon()

    @property
    def hashed(self) -> Mapping[str, Mapping[str, Any]]:
        """See ModelWriter."""
        return self._stream.hashed

    def embedding(self, weight: torch.Tensor | Quantized) -> None:
        """Write the token embeddings [vocab, hidden]; called first."""
        self._write_outer(EMBEDDING, weight)

    def block(self, index: int, block: QuantizedBlock) -> None:
        """Write the next block."""
        self.tensors(index, {**block.norms, **block.linears})

    def tensors(self, index: int, block: Mapping[str, torch.Tensor | Quantized]) -> None:
        """See TensorWriter; matrices must be codes."""
        for key in BLOCK_TENSORS:
            name, tensor = block_tensor_name(index, key), block[key]
            if isinstance(tensor, torch.Tensor) and key not in LINEARS:
                self._stream.write(name, to_half(name, tensor))
                continue
            if not isinstance(tensor, QuantizedTensor | OffsetTensor):
                raise TypeError(f"{self._layout.name} holds codes, not a {type(tensor).__name__}")
            parts = self._split.get(name)
            for part, own in split_rows(tensor, parts) if parts else [(name, tensor)]:
                self._pack(part, own)

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """Write the last norm [hidden] and an untied head [vocab, hidden]."""
        self._stream.write(FINAL_NORM, to_half(FINAL_NORM, norm))
        if head is not None:
            self._write_outer(HEAD, head)

    def _write_outer(self, name: str, tensor: torch.Tensor | Quantized) -> None:
        if isinstance(tensor, QuantizedTensor) and tensor.scheme == self._outer.get(name):
            self._pack(name, tensor)
            return
        weight = floats(tensor)
        if name not in self._outer:
            self._stream.write(name, to_half(name, weight))
            return
        try:
            codes = affine.quantize(weight, self._outer[name])
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name} can't be quantized: {error}") from None
        self._pack(name, codes)

    def _pack(self, name: str, tensor: QuantizedTensor | OffsetTensor) -> None:
        try:
            if isinstance(tensor, OffsetTensor):
                assert self._layout.pack_offsets is not None
                stored = self._layout.pack_offsets(tensor)
            else:
                stored = self._layout.pack(tensor, self._schemes)
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name} can't be written: {error}") from None
        for ending, part in stored.items():
            self._stream.write(packed_name(name, ending), part)
