"""Floats of any type as FP16 or FP32, refused where that can't hold them."""

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
        name: of the tensor, for the message.
        tensor: floats.

    Raises:
        CheckpointError: a value is too large, NaN or infinite.
    """
    rows = tensor.reshape(len(tensor), -1)
    halves = np.empty(rows.shape, np.uint16)

    def convert(part: slice) -> None:
        some = rows[part].contiguous()
        if some.dtype == torch.bfloat16:
            held = _halve(some.view(torch.uint16).numpy(), _BFLOAT16_SHIFT, halves[part])
        else:
            held = _halve(some.float().numpy().view(_U32), _U32(0), halves[part])
        if not held:
            if not torch.isfinite(some).all():
                raise DamagedError(_damaged(name))
            raise CheckpointError(
                f"tensor {name} has a value of {float(some.abs().max()):g}, which doesn't "
                "fit FP16; a format that stores it as FP16 can't hold it"
            )

    over_rows(rows.shape[0], rows.shape[1], convert)
    return torch.from_numpy(halves).view(torch.float16).view(tensor.shape)


@kernel
def _halve(numbers: np.ndarray, shift: np.uint32, halves: np.ndarray) -> bool:
    """Bits of FP16 from those of FP32 once they are shifted; whether FP16 holds all of them."""
    largest = _U32(0)
    for row in range(len(numbers)):
        for place in range(numbers.shape[1]):
            half = half_bits(_U32(_U32(numbers[row, place]) << shift).view(F32))
            halves[row, place] = half
            largest = max(largest, _U32(half & _U32(0x7FFF)))
    return bool(largest < _U32(0x7C00))


def to_full(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Convert to FP32.

    Args:
        name: of the tensor, for the message.
        tensor: floats.

    Raises:
        DamagedError: a value is NaN or infinite.
    """
    full = tensor.float()
    if not torch.isfinite(full).all():
        raise DamagedError(_damaged(name))
    return full


def _damaged(name: str) -> str:
    return f"tensor {name} holds NaN or infinity; the checkpoint is damaged"
