"""Quantized matrices as plain numbers: output of every method, input of every writer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from phi3quant.quant.scheme import QuantScheme

_CHUNK_WEIGHTS = 1 << 18


class Quantized(Protocol):
    """A quantized matrix of any codec."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def dequantize(self) -> torch.Tensor:
        """Weights that the codes represent, FP32 [rows, columns]."""


def floats(tensor: torch.Tensor | Quantized) -> torch.Tensor:
    """Weights of a matrix: those that its codes represent, or the matrix itself."""
    return tensor if isinstance(tensor, torch.Tensor) else tensor.dequantize()


@dataclass(frozen=True)
class QuantizedTensor:
    """Codes with scales and zero points, not packed into bits.

    Attributes:
        scheme: bits, group size and symmetry.
        codes: uint8 [rows, columns], each from 0 to ``scheme.max_code``.
        scales: float16 [rows, groups]; finite and never zero.
        zero_points: uint8 [rows, groups]; None in a symmetric scheme.
    """

    scheme: QuantScheme
    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None

    def __post_init__(self) -> None:
        rows, columns = self.codes.shape
        groups = (rows, columns // self.scheme.group_width(columns))
        if self.codes.dtype != torch.uint8:
            raise ValueError(f"codes are {self.codes.dtype}; they must be uint8")
        if self.scales.dtype != torch.float16 or tuple(self.scales.shape) != groups:
            raise ValueError(
                f"scales are {self.scales.dtype} {list(self.scales.shape)}; "
                f"they must be float16 {list(groups)}"
            )
        if (self.zero_points is None) != self.scheme.symmetric:
            raise ValueError("zero points go with asymmetric schemes, and only with them")
        if self.zero_points is not None and (
            self.zero_points.dtype != torch.uint8 or tuple(self.zero_points.shape) != groups
        ):
            raise ValueError(
                f"zero points are {self.zero_points.dtype} {list(self.zero_points.shape)}; "
                f"they must be uint8 {list(groups)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.codes.shape
        return rows, columns

    def to(self, device: torch.device) -> "QuantizedTensor":
        """The same codes on a device."""
        zeros = None if self.zero_points is None else self.zero_points.to(device)
        return QuantizedTensor(self.scheme, self.codes.to(device), self.scales.to(device), zeros)

    def rows(self, places: torch.Tensor) -> "QuantizedTensor":
        """The rows at ``places``, int64 [rows]."""
        zeros = None if self.zero_points is None else self.zero_points[places]
        return QuantizedTensor(self.scheme, self.codes[places], self.scales[places], zeros)

    def dequantize(self) -> torch.Tensor:
        """Weights that the codes represent, FP32 [rows, columns]."""

        def scale(groups: torch.Tensor, part: slice) -> None:
            zeros: torch.Tensor | int = self.scheme.middle
            if self.zero_points is not None:
                zeros = self.zero_points[part].float().unsqueeze(-1)
            groups.sub_(zeros).mul_(self.scales[part].float().unsqueeze(-1))

        return in_groups(self.codes, self.scheme, scale)


def in_groups(
    codes: torch.Tensor, scheme: QuantScheme, change: Callable[[torch.Tensor, slice], None]
) -> torch.Tensor:
    """Change codes to weights, FP32 [rows, columns].

    Args:
        codes: uint8 [rows, columns].
        scheme: scheme of the groups.
        change: changes codes FP32 [rows, groups, width] of a slice of rows in place.
    """
    rows, columns = codes.shape
    width = scheme.group_width(columns)
    weights = torch.empty(rows, columns // width, width, device=codes.device)
    # Parts fit into a core's cache, and no memory is needed besides the result's.
    step = max(1, _CHUNK_WEIGHTS // columns) if codes.device.type == "cpu" else rows
    for start in range(0, rows, step):
        part = slice(start, start + step)
        change(weights[part].copy_(codes[part].view(-1, columns // width, width)), part)
    return weights.view(rows, columns)
