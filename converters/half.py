"""Floats of any type as FP16 or FP32, refused where that can't hold them."""

import torch

from phi3quant.errors import CheckpointError
from phi3quant.parallel import over_rows


def to_half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Round to FP16.

    Args:
        name: of the tensor, for the message.
        tensor: floats.

    Raises:
        CheckpointError: a value is too large, NaN or infinite.
    """
    rows = tensor.reshape(len(tensor), -1)
    half = torch.empty(rows.shape, dtype=torch.float16)

    def convert(part: slice) -> None:
        own = half[part].copy_(rows[part])
        if not torch.isfinite(own).all():
            if not torch.isfinite(rows[part]).all():
                raise CheckpointError(_damaged(name))
            raise CheckpointError(
                f"tensor {name} has a value of {float(rows[part].abs().max()):g}, which doesn't "
                "fit FP16; a format that stores it as FP16 can't hold it"
            )

    over_rows(rows.shape[0], rows.shape[1], convert)
    return half.view(tensor.shape)


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
        raise CheckpointError(_damaged(name))
    return full


def _damaged(name: str) -> str:
    return f"tensor {name} holds NaN or infinity; the checkpoint is damaged"
