import math
from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize as gguf_quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.quant.codecs import affine
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec
from phi3quant.quant.gram import Gram, output_error
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.scheme import BITS, GROUP_SIZES, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from tests.quant.group_errors import grouped_output_error

SCHEMES = st.builds(
    QuantScheme,
    bits=st.sampled_from(BITS),
    group_size=st.sampled_from([*GROUP_SIZES, None]),
    symmetric=st.booleans(),
)


@st.composite
def matrices(draw: st.DrawFn, columns: int) -> torch.Tensor:
    """Rows of every kind: normal, tiny, constant, one-sided, zero, with an outlier."""
    rows = draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    weight = torch.randn(rows, columns, generator=generator)
    for number in range(rows):
        row = weight[number]  # a view, so that changes affect the matrix
        kind = draw(st.sampled_from(["normal", "tiny", "constant", "one-sided", "zero", "outlier"]))
        match kind:
            case "tiny":
                row.mul_(1e-9)
            case "constant":
                row.fill_(draw(st.floats(-3, 3, width=16)))
            case "one-sided":
                row.abs_()
            case "zero":
                row.zero_()
            case "outlier":
                row[draw(st.integers(0, columns - 1))] = 1000.0
    return weight


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, QuantScheme]:
    scheme = draw(SCHEMES)
    columns = draw(st.integers(1, 3)) * (scheme.group_size or 24)
    return draw(matrices(columns)), scheme


def grouped(tensor: QuantizedTensor, values: torch.Tensor) -> torch.Tensor:
    return values.view(values.shape[0], tensor.scales.shape[1], -1)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_codes_and_scales_stay_in_range(problem: tuple[torch.Tensor, QuantScheme]) -> None:
    weight, scheme = problem
    tensor = affine.quantize(weight, scheme)
    assert int(tensor.codes.max()) <= scheme.max_code
    assert torch.isfinite(tensor.scales).all()
    assert (tensor.scales != 0).all()
    if tensor.zero_points is not None:
        assert int(tensor.zero_points.max()) <= scheme.max_code


@settings(max_examples=200, deadline=None)
@given(problems(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_the_rounding_kernel_equals_the_tensor_operations_bit_for_bit(
    problem: tuple[torch.Tensor, QuantScheme], dtype: torch.dtype
) -> None:
    weight, scheme = problem[0].to(dtype), problem[1]
    tensor = affine.quantize(weight, scheme)
    groups = affine.grouped(weight.float(), scheme)
    grid = affine.plain_grid(groups, scheme)
    assert torch.equal(tensor.scales, grid.scales.half())
    assert torch.equal(tensor.codes, affine.nearest_codes(groups, grid, scheme).view(weight.shape))
    if tensor.zero_points is not None:
        assert torch.equal(tensor.zero_points, grid.zeros.to(torch.uint8))


def test_values_halfway_between_two_codes_round_to_the_even_one() -> None:
    weight = torch.tensor([[-8.0, 0.5, 1.5, 2.5, -0.5, -1.5, 7.0, 6.5] * 4])
    tensor = affine.quantize(weight, QuantScheme(4, 32))
    assert float(tensor.scales) == 1.0
    assert tensor.codes[0, :8].tolist() == [0, 8, 10, 10, 8, 6, 15, 14]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "scheme", [QuantScheme(4, 32), QuantScheme(4, 32, symmetric=False)], ids=str
)
def test_a_weight_that_is_not_finite_is_refused(
    bad: float, dtype: torch.dtype, scheme: QuantScheme
) -> None:
    weight = torch.ones(3, 64)
    weight[1, 40] = bad
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        affine.quantize(weight.to(dtype), scheme)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_the_rounding_error_is_at_most_half_a_step(
    problem: tuple[torch.Tensor, QuantScheme],
) -> None:
    weight, scheme = problem
    tensor = affine.quantize(weight, scheme)
    step = tensor.scales.float().abs().unsqueeze(-1)
    error = grouped(tensor, tensor.dequantize() - weight).abs()
    inside = torch.ones_like(error, dtype=torch.bool)
    if scheme.symmetric:
        # One side reaches only to max_code - middle steps.
        levels = grouped(tensor, weight) / tensor.scales.float().unsqueeze(-1)
        inside = levels <= scheme.max_code - scheme.middle
    # The scale's rounding to FP16 moves the far end by up to 2^-11 of the range, or by 2^-25 for
    # each code where scales are subnormal, and the asymmetric zero point by up to half a step.
    slack = 0.5 + scheme.max_code * 2.0**-11 + (0 if scheme.symmetric else 0.5)
    assert (error <= step * slack + scheme.max_code * 2.0**-25)[inside].all()


@settings(max_examples=100, deadline=None)
@given(problems())
def test_round_trip_is_quantize_and_dequantize(problem: tuple[torch.Tensor, QuantScheme]) -> None:
    weight, scheme = problem
    assert torch.equal(
        affine.round_trip(weight, scheme), affine.quantize(weight, scheme).dequantize()
    )


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_searched_scales_are_never_worse_than_plain_ones(
    problem: tuple[torch.Tensor, QuantScheme], seed: int
) -> None:
    weight, scheme = problem
    x = torch.randn(40, weight.shape[1], generator=torch.Generator().manual_seed(seed))
    gram = Gram.of(x)
    width = scheme.group_width(weight.shape[1])
    plain, searched = (
        grouped_output_error(tensor.dequantize() - weight, gram.captured, width)
        for tensor in (
            affine.quantize(weight, scheme),
            affine.quantize_clipped(weight, scheme, gram),
        )
    )
    assert (searched <= plain * (1 + 1e-4) + 1e-12).all()


def correlated(columns: int, seed: int = 0) -> Gram:
    """Statistics of strongly correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    return Gram.of(torch.randn(3 * columns, columns, generator=generator) @ mixing)


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_compensated_codes_and_scales_stay_in_range(
    problem: tuple[torch.Tensor, QuantScheme], seed: int
) -> None:
    weight, scheme = problem
    tensor = affine.quantize_compensated(weight, scheme, correlated(weight.shape[1], seed))
    assert int(tensor.codes.max()) <= scheme.max_code
    assert torch.isfinite(tensor.scales).all()
    assert (tensor.scales != 0).all()


@pytest.mark.parametrize(
    "scheme",
    [QuantScheme(), QuantScheme(4, 128), QuantScheme(4, 64, symmetric=False), QuantScheme(4, None)],
    ids=str,
)
def test_compensation_pays_where_inputs_are_correlated(scheme: QuantScheme) -> None:
    weight = torch.randn(70, 256, generator=torch.Generator().manual_seed(0))
    gram = correlated(256)
    searched, compensated = (
        float(
            output_error(function(weight, scheme, gram).dequantize() - weight, gram.captured).sum()
        )
        for function in (affine.quantize_clipped, affine.quantize_compensated)
    )
    assert compensated < 0.7 * searched


@pytest.mark.parametrize("strength", [1.0, 0.0], ids=["white", "dead"])
def test_without_correlations_compensation_is_rounding_to_nearest(strength: float) -> None:
    weight = torch.randn(20, 128, generator=torch.Generator().manual_seed(1))
    for scheme in (QuantScheme(), QuantScheme(4, 64, symmetric=False)):
        plain = affine.quantize_clipped(weight, scheme, Gram.of(torch.eye(128)))
        compensated = affine.quantize_compensated(
            weight, scheme, Gram.of(strength * torch.eye(128))
        )
        assert torch.equal(compensated.codes, plain.codes)
        assert torch.equal(compensated.scales, plain.scales)


def test_compensation_equals_the_optimal_brain_surgeon() -> None:
    """GPTQ computes the same updates as inverting the rest of the matrix after every column."""
    scheme, damping = QuantScheme(4, 16), 0.01
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    gram = correlated(64, seed=4).captured
    # Columns fall in importance already, so that they keep their order.
    strength = torch.linspace(3, 0.5, 64)
    gram *= strength[:, None] * strength / gram.diagonal().sqrt()[:, None] / gram.diagonal().sqrt()
    tensor = affine.quantize_compensated(weight, scheme, Gram(gram, strength, 1), damping=damping)
    damped = gram.double() + damping * gram.diagonal().mean().double() * torch.eye(64)
    remaining = weight.double()
    for column in range(64):
        scale = tensor.scales[:, column // 16].double()
        codes = (remaining[:, column] / scale + 8).round().clamp(0, 15)
        assert torch.equal(codes.to(torch.uint8), tensor.codes[:, column])
        off = remaining[:, column] - (codes - 8) * scale
        inverse = torch.linalg.inv(damped[column:, column:])
        remaining[:, column:] -= off[:, None] * inverse[0] / inverse[0, 0]


def test_searched_scales_pay_on_normal_weights() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    scheme = QuantScheme()
    gram = Gram.of(torch.eye(256))
    plain = (affine.quantize(weight, scheme).dequantize() - weight).square().sum()
    searched = (affine.quantize_clipped(weight, scheme, gram).dequantize() - weight).square().sum()
    assert searched < 0.9 * plain


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_real_offsets_are_stored_as_computed(
    problem: tuple[torch.Tensor, QuantScheme], seed: int
) -> None:
    weight, scheme = problem[0], replace(problem[1], symmetric=False)
    gram = correlated(weight.shape[1], seed)
    codec = affine.AffineCodec(scheme, real_offsets=True)
    for tensor in (
        codec.quantize(weight),
        codec.quantize_fitted(weight, gram),
        codec.quantize_compensated(weight, gram),
    ):
        assert isinstance(tensor, OffsetTensor)
        assert tensor.scales.dtype == tensor.offsets.dtype == torch.float16
        assert torch.isfinite(tensor.scales).all()
        assert torch.isfinite(tensor.offsets).all()
        assert (tensor.scales != 0).all()
        assert int(tensor.codes.max()) <= scheme.max_code
    largest = weight.abs().amax()
    fitted = codec.quantize_fitted(weight, gram).dequantize()
    assert (fitted - weight).abs().amax() <= 0.6 * largest + 1e-6


@pytest.mark.parametrize("columns", [32, 64])
def test_real_offsets_lose_less_than_zero_points(columns: int) -> None:
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    gram = Gram.of(torch.randn(2048, 256, generator=torch.Generator().manual_seed(1)))
    scheme = QuantScheme(4, columns, symmetric=False)
    whole, real = (affine.AffineCodec(scheme, real_offsets=real) for real in (False, True))
    for method in ("quantize_fitted", "quantize_compensated"):
        losses = [
            float(output_error(coded.dequantize() - weight, gram.captured).sum())
            for coded in (getattr(codec, method)(weight, gram) for codec in (whole, real))
        ]
        assert losses[1] < 0.95 * losses[0]


def test_scales_and_real_offsets_are_a_least_squares_fit_to_the_codes() -> None:
    """Solved anew by numpy, for a group's block of the Gram matrix as its metric."""
    weight = torch.randn(40, 32, generator=torch.Generator().manual_seed(5))
    gram = correlated(32, seed=6)
    tensor = affine.quantize_clipped(
        weight, QuantScheme(4, 32, symmetric=False), gram, real_offsets=True
    )
    root = np.linalg.cholesky(gram.captured.double().numpy()).T
    kept, best = 0.0, 0.0
    for row, codes, stored in zip(
        weight.numpy(), tensor.codes.numpy(), tensor.dequantize().numpy(), strict=True
    ):
        terms = np.stack([codes, np.ones(32)], axis=1)
        fit = np.linalg.lstsq(root @ terms, root @ row, rcond=None)[0]
        kept += np.square(root @ (stored - row)).sum()
        best += np.square(root @ (terms @ fit - row)).sum()
    # Scales and offsets are rounded to FP16, and the codes were chosen anew after the last fit.
    assert best <= kept <= 1.1 * best


def test_real_offsets_lose_less_than_llama_cpps_search() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(7))
    importance = torch.rand(256, generator=torch.Generator().manual_seed(8)) + 0.1
    gram = Gram(torch.diag(importance), importance.sqrt(), 1)
    scheme = QuantScheme(4, 32, symmetric=False)
    ours, theirs = (
        float(
            output_error(
                codec.quantize_fitted(weight, gram).dequantize() - weight, gram.captured
            ).sum()
        )
        for codec in (affine.AffineCodec(scheme, real_offsets=True), BlockCodec(TYPES["Q4_1"]))
    )
    assert ours < theirs


def test_offsets_past_fp16_are_cut_off() -> None:
    weight = torch.full((1, 32), -1e5)
    weight[0, ::2] = 0
    gram = Gram.of(torch.eye(32))
    codec = affine.AffineCodec(QuantScheme(4, 32, symmetric=False), real_offsets=True)
    tensor = codec.quantize_fitted(weight, gram)
    assert isinstance(tensor, OffsetTensor)
    assert float(tensor.offsets.min()) == -65504
    with pytest.raises(CheckpointError, match="doesn't fit FP16"):
        codec.quantize(weight)


def test_a_group_of_zeros_stays_zero_and_its_scale_is_not_subnormal() -> None:
    for symmetric in (True, False):
        tensor = affine.quantize(torch.zeros(2, 64), QuantScheme(symmetric=symmetric))
        assert torch.equal(tensor.dequantize(), torch.zeros(2, 64))
        assert float(tensor.scales.min()) == 2.0**-14


def test_symmetric_group_of_32_has_the_scale_of_a_q4_0_block() -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(3))
    tensor = affine.quantize(weight, QuantScheme())
    blocks = gguf_quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0).reshape(16, 4, 18)
    scales = blocks[:, :, :2].copy().view(np.float16)[..., 0]
    assert np.array_equal(tensor.scales.numpy(), scales)
    codes = np.concatenate([blocks[:, :, 2:] & 15, blocks[:, :, 2:] >> 4], axis=-1)
    off = np.abs(codes.reshape(16, 128).astype(int) - tensor.codes.numpy())
    # gguf rounds with the scale before its conversion to FP16, so codes may differ by one.
    assert off.max() <= 1
    assert off.mean() < 0.01


def test_weights_too_large_for_fp16_scales_are_refused() -> None:
    with pytest.raises(SchemeError, match="doesn't fit FP16"):
        affine.quantize(torch.full((1, 32), 1e6), QuantScheme())


def test_the_message_for_a_group_size_that_does_not_divide_rows_lists_those_that_do() -> None:
    with pytest.raises(SchemeError, match=r"rows of 96 weights; choose 16, 32 or row"):
        affine.quantize(torch.zeros(1, 96), QuantScheme(group_size=64))


@pytest.mark.parametrize("bad", [{"bits": 7}, {"group_size": 48}, {"group_size": 0}])
def test_unsupported_schemes_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SchemeError, match="not supported"):
        QuantScheme(**bad)


def test_bits_per_weight_include_scales_and_zero_points() -> None:
    assert QuantScheme().bits_per_weight(128) == 4.5
    assert QuantScheme(group_size=64, symmetric=False).bits_per_weight(128) == 4 + 20 / 64
    assert QuantScheme(bits=8, group_size=None).bits_per_weight(128) == 8 + 16 / 128
