"""Tensor operations next to the compiled kernels, on the CPU."""

import itertools

import pytest
import torch

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.on_device.affine import AffineDeviceCodec
from phi3quant.quant.gram import Gram
from phi3quant.quant.scheme import QuantScheme

SCHEMES = [
    QuantScheme(bits, size, symmetric)
    for bits, size, symmetric in itertools.product((4, 8), (16, 32, 64, 128, None), (True, False))
]
CODECS = [
    *map(AffineCodec, SCHEMES),
    *(AffineCodec(scheme, real_offsets=True) for scheme in SCHEMES if not scheme.symmetric),
]


def matrix(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(150, 256, generator=generator)
    weight *= torch.rand(150, 1, generator=generator)
    weight[3], weight[5, :64], weight[7, 9] = 0, 0.7, 40.0
    weight[9] *= 1e-9
    return weight


def statistics(seed: int) -> Gram:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2000, 256, generator=generator)
    return Gram.of(inputs @ torch.randn(256, 256, generator=generator))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rounding_is_the_kernels(scheme: QuantScheme) -> None:
    for weight in (matrix(1), matrix(2).bfloat16(), matrix(3).half()):
        expected = AffineCodec(scheme).quantize(weight)
        got = AffineDeviceCodec(scheme).quantize(weight)
        assert torch.equal(expected.codes, got.codes)
        assert torch.equal(expected.scales, got.scales)
        assert torch.equal(expected.dequantize(), got.dequantize())


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_searched_codes_are_the_kernels_except_for_ties(codec: AffineCodec) -> None:
    weight, gram = matrix(4), statistics(5)
    shortfall = 0.01 * torch.randn(150, 256, generator=torch.Generator().manual_seed(6))
    kernels, tensors = codec, AffineDeviceCodec(codec.scheme, codec.real_offsets)
    for expected, got in (
        (kernels.quantize_fitted(weight, gram), tensors.quantize_fitted(weight, gram)),
        (
            kernels.quantize_compensated(weight, gram, shortfall),
            tensors.quantize_compensated(weight, gram, shortfall),
        ),
        (kernels.quantize_compensated(weight, gram), tensors.quantize_compensated(weight, gram)),
    ):
        assert (expected.codes == got.codes).float().mean() > 0.98
        losses = [
            float(gram.output_error(each.dequantize() - weight).double().sum())
            for each in (expected, got)
        ]
        assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_inputs_that_are_always_zero() -> None:
    weight, scheme = matrix(7), QuantScheme()
    gram = Gram(torch.zeros(256, 256), torch.zeros(256), 10)
    expected = AffineCodec(scheme).quantize_compensated(weight, gram)
    got = AffineDeviceCodec(scheme).quantize_compensated(weight, gram)
    assert (expected.codes == got.codes).float().mean() > 0.999


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weight = matrix(8)
    weight[4, 4] = bad
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        AffineDeviceCodec(QuantScheme()).quantize(weight)


def test_weights_past_the_scales_range_are_refused() -> None:
    weight, codec = matrix(9) * 1e7, AffineDeviceCodec(QuantScheme())
    with pytest.raises(SchemeError, match="too large to quantize"):
        codec.quantize(weight)
    with pytest.raises(SchemeError, match="doesn't divide"):
        codec.quantize(weight[:, :40])
