"""Tensors that are going to be written: names, types, shapes and sizes, without torch."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

SHARD_BYTES = 5_000_000_000
"""Customary size limit of a safetensors shard, in bytes."""

ITEM_BYTES: Mapping[str, int] = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "U32": 4,
    "I8": 1,
    "U8": 1,
}
"""Bytes per element, by the name of the type in safetensors."""


@dataclass(frozen=True)
class PlannedTensor:
    """Name, type (a key of ITEM_BYTES) and shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def plan_shards(
    tensors: Sequence[PlannedTensor], shard_bytes: int = SHARD_BYTES
) -> list[list[PlannedTensor]]:
    """Split tensors, in order, into shards of at most ``shard_bytes`` bytes.

    A larger tensor gets a shard of its own.
    """
    shards: list[list[PlannedTensor]] = [[]]
    room = shard_bytes
    for tensor in tensors:
        if shards[-1] and tensor.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.nbytes
    return shards


def safetensors_header(tensors: Sequence[PlannedTensor], library: str = "pt") -> bytes:
    """Header of a safetensors file: https://huggingface.co/docs/safetensors.

    Args:
        tensors: all tensors of the file, in order.
        library: the library that loads the file: ``pt`` or ``mlx``.
    """
    entries: dict[str, object] = {"__metadata__": {"format": library}}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Spaces align the data to 8 bytes, as the safetensors library does.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
