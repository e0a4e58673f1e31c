"""FP16 from all that it is made of, held against torch's conversion."""

import pytest
import torch

from converters.half import to_half
from phi3quant.errors import CheckpointError


def _all_numbers(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_16_bits_becomes_what_torch_makes_of_it(dtype: torch.dtype) -> None:
    numbers = _all_numbers(dtype)
    numbers = numbers[torch.isfinite(numbers.half())].reshape(-1, 1)
    halves = to_half("w", numbers)
    assert halves.shape == numbers.shape
    assert torch.equal(halves.view(torch.int16), numbers.half().view(torch.int16))


def test_full_numbers_of_all_sizes_are_rounded_as_torch_does() -> None:
    bits = torch.randint(-(2**31), 2**31, (700, 1001), generator=torch.Generator().manual_seed(3))
    numbers = bits.to(torch.int32).view(torch.float32)
    numbers = torch.where(torch.isfinite(numbers.half()), numbers, 0.0)
    numbers[0] = torch.arange(1001) * 2.0**-25
    assert torch.equal(to_half("w", numbers).view(torch.int16), numbers.half().view(torch.int16))
    assert torch.equal(to_half("w", numbers.t()), numbers.t().half())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_damage_is_named(dtype: torch.dtype, value: float) -> None:
    numbers = torch.zeros(300, 1000, dtype=dtype)
    numbers[299, 999] = value
    with pytest.raises(CheckpointError, match="w holds NaN or infinity"):
        to_half("w", numbers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_too_large_is_named_with_its_size(dtype: torch.dtype) -> None:
    numbers = torch.zeros(3, 5, dtype=dtype)
    numbers[1, 2] = -65536.0
    with pytest.raises(CheckpointError, match=r"65536, which doesn't fit FP16"):
        to_half("w", numbers)
