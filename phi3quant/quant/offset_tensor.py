"""Quantized matrices with a real offset per group, as MLX and Q4_1 store them."""

from dataclasses import dataclass

import torch

from phi3quant.errors import CheckpointError
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor, in_groups


@dataclass(frozen=True)
class OffsetTensor:
    """Codes with scales and offsets: a weight is ``code * scale + offset``.

    Attributes:
        scheme: bits and group size, and whether all zero points should be the middle.
        codes: uint8 [rows, columns], each from 0 to ``scheme.max_code``.
        scales: floats [rows, groups] of either sign.
        offsets: floats [rows, groups].
    """

    scheme: QuantScheme
    codes: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.codes.shape
        return rows, columns

    def to(self, device: torch.device) -> "OffsetTensor":
        """The same codes on a device."""
        parts = (part.to(device) for part in (self.codes, self.scales, self.offsets))
        return OffsetTensor(self.scheme, *parts)

    def dequantize(self) -> torch.Tensor:
        """Weights that the codes represent, FP32 [rows, columns]."""

        def scale(groups: torch.Tensor, part: slice) -> None:
            groups.mul_(self.scales[part].float().unsqueeze(-1))
            groups.add_(self.offsets[part].float().unsqueeze(-1))

        return in_groups(self.codes, self.scheme, scale)

    def with_zero_points(self) -> QuantizedTensor:
        """The same codes with zero points; without them in a symmetric scheme.

        Raises:
            CheckpointError: an offset is not a multiple of its scale, the scheme is symmetric and a
                zero point isn't the middle, or a scale doesn't fit FP16.
        """
        zeros = zero_points(self.scales, self.offsets, self.scheme)
        if zeros is None:
            raise CheckpointError("its offsets are not whole multiples of their scales")
        if self.scheme.symmetric and not is_symmetric(zeros, self.scheme):
            raise CheckpointError(f"not all its zero points are {self.scheme.middle}")
        if not fit_half(self.scales):
            raise CheckpointError("its scales don't fit FP16")
        stored = None if self.scheme.symmetric else zeros
        return QuantizedTensor(self.scheme, self.codes, self.scales.half(), stored)


def with_offsets(tensor: QuantizedTensor) -> OffsetTensor:
    """The same codes with an FP16 offset, ``-scale * zero_point`` rounded once.

    Raises:
        CheckpointError: an offset doesn't fit FP16.
    """
    zeros: torch.Tensor | int = tensor.scheme.middle
    if tensor.zero_points is not None:
        zeros = tensor.zero_points.float()
    offsets = offsets_of(tensor.scales, zeros)
    if not torch.isfinite(offsets).all():
        largest = float(tensor.scales.float().abs().max())
        raise CheckpointError(
            f"a scale of {largest:g} has an offset that doesn't fit FP16; choose another format"
        )
    return OffsetTensor(tensor.scheme, tensor.codes, tensor.scales, offsets)


def offsets_of(scales: torch.Tensor, zeros: torch.Tensor | int) -> torch.Tensor:
    """Offsets ``-scale * zero_point``, rounded to FP16 once.

    Args:
        scales: floats [rows, groups].
        zeros: zero points, FP32 [rows, groups], or one for all groups.
    """
    # Zero is added so that a zero point of 0 gives an offset of 0 instead of -0.
    return (scales.float() * zeros).neg_().add_(0.0).half()


def zero_points(
    scales: torch.Tensor, offsets: torch.Tensor, scheme: QuantScheme
) -> torch.Tensor | None:
    """Zero points that offsets stand for, uint8 [rows, groups].

    Args:
        scales: floats [rows, groups].
        offsets: floats [rows, groups].
        scheme: bits of the codes.

    Returns:
        None unless every offset is ``-scale * zero_point``, rounded to the type of ``offsets``, for
        a zero point among the codes.
    """
    full = scales.float()
    zeros = (-offsets.float() / full).round_()
    rounded = (-zeros * full).to(offsets.dtype)
    valid = (zeros >= 0) & (zeros <= scheme.max_code) & (rounded == offsets)
    return zeros.to(torch.uint8) if bool(valid.all()) else None


def is_symmetric(zeros: torch.Tensor, scheme: QuantScheme) -> bool:
    """Whether all zero points are those of the symmetric scheme."""
    return bool((zeros == scheme.middle).all())


def fit_half(values: torch.Tensor) -> bool:
    """Whether FP16 holds floats of another type exactly."""
    return torch.equal(values.half().float(), values.float())
