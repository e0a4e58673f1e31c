"""Numbers that the codes of a block type represent before the scale."""

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class CodeValues:
    """Value of each code, ascending.

    Attributes:
        numbers: a number per code.
    """

    numbers: tuple[float, ...]

    @property
    def uniform(self) -> bool:
        """Whether the numbers are consecutive integers."""
        return self.numbers[-1] - self.numbers[0] == len(self.numbers) - 1

    def of(self, codes: torch.Tensor) -> torch.Tensor:
        """Values FP32 of integer codes of any shape."""
        if self.uniform:
            return codes.float().add_(self.numbers[0])
        numbers = _on(codes.device, self.numbers)
        return numbers.index_select(0, codes.flatten().int()).view(codes.shape)

    def nearest(self, numbers: torch.Tensor) -> torch.Tensor:
        """Codes of the nearest values; of two that are equally near, a table takes the greater.

        Args:
            numbers: FP32.

        Returns:
            Codes int32 of the same shape.
        """
        if self.uniform:
            highest = len(self.numbers) - 1
            return (numbers.round() - self.numbers[0]).clamp_(0, highest).int()
        pairs = zip(self.numbers, self.numbers[1:], strict=False)
        midpoints = _on(numbers.device, tuple((low + high) / 2 for low, high in pairs))
        return torch.bucketize(numbers.contiguous(), midpoints, out_int32=True, right=True)

    def round_into(self, numbers: torch.Tensor, out: torch.Tensor) -> None:
        """Write the values nearest to ``numbers``, FP32 [rows], into ``out``, likewise."""
        if self.uniform:
            torch.round(numbers, out=out).clamp_(self.numbers[0], self.numbers[-1])
        else:
            values = _on(numbers.device, self.numbers)
            torch.index_select(values, 0, self.nearest(numbers), out=out)


@cache
def _on(device: torch.device, numbers: tuple[float, ...]) -> torch.Tensor:
    """A constant in the memory of a device; CUDA graphs can't contain its transfer."""
    return torch.tensor(numbers, device=device)
