"""Writer of plain checkpoints: a folder of safetensors in FP16, BF16 or FP32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from converters.companions import carry_along, write_config
from converters.format import Source
from converters.half import to_bfloat16, to_full, to_half
from phi3quant.disk.tensor_plan import SHARD_BYTES, PlannedTensor
from phi3quant.disk.tensor_stream import SafetensorsStream, spec_of
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    block_tensor_name,
    tensor_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.tensor import Quantized, floats

NAME = "safetensors"
"""Name on the command line."""


@dataclass(frozen=True)
class FloatType:
    """A type of plain weights.

    Attributes:
        stored: its name in safetensors.
        torch_name: its name in config.json.
        convert: function of (name for messages, floats) that rounds, and refuses values that don't
            fit.
    """

    stored: str
    torch_name: str
    convert: Callable[[str, torch.Tensor], torch.Tensor]


FLOAT_TYPES: Mapping[str, FloatType] = {
    "fp16": FloatType("F16", "float16", to_half),
    "bf16": FloatType("BF16", "bfloat16", to_bfloat16),
    "fp32": FloatType("F32", "float32", to_full),
}
"""Types by their names on the command line; the first is the default."""


def plan(config: Phi3Config, kind: FloatType) -> list[PlannedTensor]:
    """All tensors of a plain checkpoint, in the order of writing."""
    return [
        PlannedTensor(name, kind.stored, shape) for name, shape in tensor_shapes(config).items()
    ]


class PlainWriter:
    """Writer of a model into a folder, block by block; codes are dequantized."""

    def __init__(
        self, folder: Path, source: Source, kind: FloatType, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self._folder, self._source = folder, source.folder
        self._config, self._kind = source.config, kind
        folder.mkdir(parents=True, exist_ok=True)
        specs = [spec_of(planned) for planned in plan(source.config, kind)]
        self._stream = SafetensorsStream(folder, specs, shard_bytes)

    def complete(self) -> None:
        """See Completable."""
        self._stream.complete()
        write_config(self._folder, self._config, torch_dtype=self._kind.torch_name)
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
        self._write(EMBEDDING, floats(weight))

    def block(self, index: int, block: QuantizedBlock) -> None:
        """Write the next block."""
        self.tensors(index, {**block.norms, **block.linears})

    def tensors(self, index: int, block: Mapping[str, torch.Tensor | Quantized]) -> None:
        """See TensorWriter."""
        for key in BLOCK_TENSORS:
            tensor = block[key]
            plain = tensor if isinstance(tensor, torch.Tensor) else tensor.dequantize()
            self._write(block_tensor_name(index, key), plain)

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """Write the last norm [hidden] and an untied head [vocab, hidden]."""
        self._write(FINAL_NORM, norm)
        if head is not None:
            self._write(HEAD, floats(head))

    def _write(self, name: str, tensor: torch.Tensor) -> None:
        self._stream.write(name, self._kind.convert(name, tensor))
