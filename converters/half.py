"""Conversion of floats to FP16, BF16 or FP32, which refuses values that don't fit."""

import numpy as np
import torch

from phi3quant.errors import CheckpointError, DamagedError
from phi3quant.parallel import over_rows
from phi3quant.quant.codecs.lanes import F32, half_bits, kernel

_U32 = np.uint32
_BFLOAT16_SHIFT = _U32(16)
"""BF16 is the upper half of an FP32 number's bits."""


def to_half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Round to FP16.

    Args:
        name: name of the tensor, for messages.
        tensor: floats of any shape.

    Raises:
        CheckpointError: a value is too large.
        DamagedError: a value is NaN or infinite.
    """
    rows = tensor.reshape(len(tensor), -1)
    halves = np.empty(rows.shape, np.uint16)

    def convert(part: slice) -> None:
        values = rows[part].contiguous()
        if values.dtype == torch.bfloat16:
            fits = _halve(values.view(torch.uint16).numpy(), _BFLOAT16_SHIFT, halves[part])
        else:
            fits = _halve(values.float().numpy().view(_U32), _U32(0), halves[part])
        if not fits:
            if not torch.isfinite(values).all():
                raise DamagedError(_damaged(name))
            raise CheckpointError(
                f"tensor {name} has a value of {float(values.abs().max()):g}, which doesn't "
                "fit FP16; choose a format that stores it as FP32, such as GGUF"
            )

    over_rows(rows.shape[0], rows.shape[1], convert)
    return torch.from_numpy(halves).view(torch.float16).view(tensor.shape)


@kernel
def _halve(numbers: np.ndarray, shift: np.uint32, halves: np.ndarray) -> bool:
    """Write FP16 bits of shifted FP32 bits into ``halves``; return whether all values fit."""
    largest = _U32(0)
    for row in range(len(numbers)):
        for place in range(numbers.shape[1]):
            half = half_bits(_U32(_U32(numbers[row, place]) << shift).view(F32))
            halves[row, place] = half
            largest = max(largest, _U32(half & _U32(0x7FFF)))
    return bool(largest < _U32(0x7C00))


def to_bfloat16(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Round to BF16.

    Args:
        name: name of the tensor, for messages.
        tensor: floats of any shape.

    Raises:
        CheckpointError: a value is too large.
        DamagedError: a value is NaN or infinite.
    """
    rounded = tensor.bfloat16()
    if not torch.isfinite(rounded).all():
        largest = float(to_full(name, tensor).abs().max())
        raise CheckpointError(
            f"tensor {name} has a value of {largest:g}, which doesn't fit BF16; choose FP32"
        )
    return rounded


def to_full(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Convert to FP32.

    Args:
        name: name of the tensor, for messages.
        tensor: floats of any shape.

    Raises:
        DamagedError: a value is NaN or infinite.
    """
    full = tensor.float()
    if not torch.isfinite(full).all():
        raise DamagedError(_damaged(name))
    return full


def _damaged(name: str) -> str:
    return f"tensor {name} holds NaN or infinity; the checkpoint is damaged"
