"""Floats of any type as FP16 or FP32, refused where that can't hold them."""

import torch

from phi3quant.errors import CheckpointError


def to_half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Round to FP16.

    Args:
        name: of the tensor, for the message.
        tensor: floats.

    Raises:
        CheckpointError: a value is too large.
    """
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise CheckpointError(
            f"tensor {name} has a value of {float(tensor.abs().max()):g}, which doesn't fit FP16; "
            "a format that stores it as FP16 can't hold it"
        )
    return half


def to_full(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Convert to FP32.

    Args:
        name: of the tensor, for the message.
        tensor: floats.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    full = tensor.float()
    if not torch.isfinite(full).all():
        raise CheckpointError(f"tensor {name} holds NaN or infinity; the checkpoint is damaged")
    return full
