"""Weights of squared errors in the searches for scales: the formulas of ggml-quants.c.

Weights of a model are laid out as tiles FP32 [places, rows, groups]: the weights of a group along
the first dimension, so that sums over a group add whole rows of memory.
"""

import torch

from phi3quant.quant.codecs.on_device.tiles import sum_places


def weigh_by_size(x: torch.Tensor) -> torch.Tensor:
    """abs(x) plus the root mean square of the group, FP32 [places, rows, groups]."""
    mean = sum_places(x.square()).div_(len(x)).sqrt_()
    return x.abs().add_(mean)


def weigh_by_importance(x: torch.Tensor, importance: torch.Tensor, groups: int) -> torch.Tensor:
    """The importance times sqrt(2 * the block's mean square + x^2), FP32 [places, rows, groups].

    Args:
        x: FP32 [places, rows, groups].
        importance: mean square of each column's input, FP32 [places, 1, groups].
        groups: number of groups per block.
    """
    squares = x.square()
    # In the order of the columns, as llama.cpp adds them.
    size = len(x) * groups
    by_block = squares.permute(1, 2, 0).reshape(-1, size).T
    spread = sum_places(by_block.clone(memory_format=torch.contiguous_format)).mul_(2).div_(size)
    spread = spread.repeat_interleave(groups).view(x.shape[1:])
    return squares.add_(spread).sqrt_().mul_(importance)


def weigh_by_row(x: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """The importance times sqrt(the row's mean square + x^2); arguments as weigh_by_importance."""
    squares = x.square()
    columns = torch.full((), float(x.shape[0] * x.shape[2]), device=x.device)
    spread = squares.sum(dim=(0, 2)).div_(columns)
    return squares.add_(spread[:, None]).sqrt_().mul_(importance)
