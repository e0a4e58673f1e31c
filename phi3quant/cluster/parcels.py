"""Tensors on their way through Ray's object store, by way of its raw buffers.

Ray would copy a tensor several times to pickle it. A received tensor is a copy, so that it is
aligned like others and the store can free its memory.
"""

from typing import Any

import numpy as np
import torch

from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockTensor

# NumPy lacks BF16.
_STORED = {torch.bfloat16: torch.int16}


def register(ray: Any) -> None:
    """Pass tensors and matrices of blocks between this process and others in this way."""
    ray.util.register_serializer(torch.Tensor, serializer=_values, deserializer=_tensor)
    # A type has functions, which its name stands for.
    ray.util.register_serializer(BlockTensor, serializer=_blocks, deserializer=_block_tensor)


def _values(tensor: torch.Tensor) -> tuple[np.ndarray, torch.dtype]:
    values = tensor.detach().contiguous()
    return values.view(_STORED.get(values.dtype, values.dtype)).numpy(), tensor.dtype


def _tensor(stored: tuple[np.ndarray, torch.dtype]) -> torch.Tensor:
    values, dtype = stored
    tensor = torch.empty(values.shape, dtype=dtype)
    tensor.view(_STORED.get(dtype, dtype)).numpy()[...] = values
    return tensor


def _blocks(tensor: BlockTensor) -> tuple[str, torch.Tensor, tuple[int, int]]:
    return tensor.kind.name, torch.from_numpy(tensor.data), tensor.shape


def _block_tensor(stored: tuple[str, torch.Tensor, tuple[int, int]]) -> BlockTensor:
    name, data, shape = stored
    return BlockTensor(TYPES[name], data.numpy(), shape)
