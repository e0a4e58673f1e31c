"""Blocks from tensor operations, compared with those of the CPU's kernels."""

import math

import numpy as np
import pytest
import torch

from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec, BlockTensor
from phi3quant.quant.codecs.ggml_grids import GRIDS
from phi3quant.quant.codecs.on_device.block_encoders import ENCODERS
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS
from phi3quant.quant.codecs.on_device.block_tensor import FLOATS
from phi3quant.quant.codecs.on_device.blocks import DeviceBlockCodec
from phi3quant.quant.gram import Gram, output_error

COLUMNS = 512
# Types whose searches weight errors by the mean square of a row, which is added in another order.
LEGACY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
# Types that are rounded without a search where columns have no importance.
PLAIN = ("Q8_0", *LEGACY)


def rows() -> dict[str, torch.Tensor]:
    """Ordinary rows, and rows that are difficult for a search.

    Each matrix has a multiple of 32 superblocks. Torch adds the last few of another number in
    another order.
    """
    generator = torch.Generator().manual_seed(5)

    def normal(count: int = 16) -> torch.Tensor:
        return torch.randn(count, COLUMNS, generator=generator)

    outliers = normal()
    outliers[:, : COLUMNS // 2] = 0
    outliers[:, 300:310] *= 1000
    constants = torch.tensor([0.37, -0.59, 1e-3, 0.0]).repeat(4)[:, None].expand(-1, COLUMNS)
    return {
        "normal": normal(128),
        "heavy tails": normal(64) / torch.rand(64, COLUMNS, generator=generator).sqrt(),
        "many scales": normal() * torch.exp(3 * normal()),
        "outliers": outliers,
        "zeros": torch.zeros(16, COLUMNS),
        "constants": constants,
        "positive": torch.rand(32, COLUMNS, generator=generator),
        "negative": -torch.rand(16, COLUMNS, generator=generator),
        "few values": normal().round(),
        "tiny": normal() * 1e-20,
        "subnormal": normal() * 1e-42,
        "large": normal() * 1e3,
    }


def gram(kind: str) -> Gram:
    """Statistics of inputs with moderately or wildly different mean squares."""
    generator = torch.Generator().manual_seed(6)
    squares = {
        "mild": torch.rand(COLUMNS, generator=generator) + 0.01,
        "wild": torch.exp(3 * torch.randn(COLUMNS, generator=generator)),
        "zero": torch.zeros(COLUMNS),
    }[kind]
    return Gram(squares.diag(), squares.sqrt(), 1)


@pytest.fixture
def exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square roots that are rounded correctly, as on GPUs; torch's on CPUs may be off by a bit."""

    def root(self: torch.Tensor) -> torch.Tensor:
        return self.copy_(torch.from_numpy(np.sqrt(self.numpy())))

    monkeypatch.setattr(torch.Tensor, "sqrt_", root)


def superblock_errors(
    decoded: torch.Tensor, x: torch.Tensor, importance: torch.Tensor
) -> torch.Tensor:
    """Squared error of each 256 weights, weighted as in the searches of K-quants."""
    weights = importance * (2 * x.square().mean() + x.square()).sqrt()
    return ((decoded - x).square() * weights).view(-1, 256).sum(dim=1)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.usefixtures("exact_roots")
def test_searches_without_importance_equal_the_kernels_bit_for_bit(kind: str) -> None:
    for name, x in rows().items():
        expected = BlockCodec(TYPES[kind]).quantize(x).data
        blocks = DeviceBlockCodec(TYPES[kind]).quantize(x).stored().data
        np.testing.assert_array_equal(blocks, expected, name)


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind not in LEGACY])
@pytest.mark.parametrize("importance", ["mild", "wild", "zero"])
@pytest.mark.usefixtures("exact_roots")
def test_fitted_searches_equal_the_kernels_bit_for_bit(kind: str, importance: str) -> None:
    for name, x in rows().items():
        expected = BlockCodec(TYPES[kind]).quantize_fitted(x, gram(importance)).data
        blocks = DeviceBlockCodec(TYPES[kind]).quantize_fitted(x, gram(importance)).stored().data
        np.testing.assert_array_equal(blocks, expected, name)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_rounding_equals_the_kernels_bit_for_bit(kind: str) -> None:
    for name, x in rows().items():
        expected = BlockCodec(TYPES[kind]).quantize(x).data
        blocks = DeviceBlockCodec(TYPES[kind]).quantize(x).stored().data
        np.testing.assert_array_equal(blocks, expected, name)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("importance", ["none", "mild"])
def test_sums_in_another_order_lose_nothing(
    kind: str, importance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("scale_search", "error_weights", "k_quants", "table_quants"):
        monkeypatch.setattr(
            f"phi3quant.quant.codecs.on_device.{module}.sum_places",
            lambda tile: (tile[::2] + tile[1::2]).flip(0).sum(dim=0),
        )
    x = torch.cat([rows()["heavy tails"], *[rows()["normal"]] * 2])
    x *= torch.linspace(0.5, 2, len(x))[:, None]
    size = TYPES[kind].row_bytes(TYPES[kind].block)
    statistics = None if importance == "none" else gram(importance)
    tensors = []
    for codec in (BlockCodec(TYPES[kind]), DeviceBlockCodec(TYPES[kind])):
        tensor = codec.quantize_fitted(x, statistics) if statistics else codec.quantize(x)
        tensors.append(tensor)
    kernels, blocks = (
        tensor.data if isinstance(tensor, BlockTensor) else tensor.stored().data
        for tensor in tensors
    )
    equal = blocks.reshape(-1, size) == kernels.reshape(-1, size)
    assert equal.all(axis=1).mean() > 0.97
    weights = statistics.diagonal() if statistics else torch.ones(COLUMNS)
    least, errors = (superblock_errors(each.dequantize(), x, weights) for each in tensors)
    assert float((errors / least).log().mean()) < 3e-4


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "IQ4_XS"])
def test_blocks_do_not_depend_on_the_size_of_parts(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, codec = rows()["normal"], DeviceBlockCodec(TYPES[kind])
    whole = codec.quantize_fitted(x, gram("mild"))
    monkeypatch.setattr("phi3quant.quant.codecs.on_device.blocks.CHUNK_WEIGHTS", 16 * COLUMNS)
    assert torch.equal(codec.quantize_fitted(x, gram("mild")).blocks, whole.blocks)


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_equal_the_cpus(kind: str) -> None:
    x = rows()["normal"]
    expected = BlockCodec(TYPES[kind]).quantize(x)
    tensor = DeviceBlockCodec(TYPES[kind]).quantize(x)
    np.testing.assert_array_equal(tensor.stored().data, expected.data)
    assert torch.equal(tensor.dequantize(), expected.dequantize())


@pytest.mark.parametrize("kind", ["BF16", "Q4_K", "IQ4_NL"])
def test_bf16_weights_are_quantized_like_the_same_numbers_in_fp32(kind: str) -> None:
    x, codec = rows()["normal"].bfloat16(), DeviceBlockCodec(TYPES[kind])
    assert torch.equal(codec.quantize(x).blocks, codec.quantize(x.float()).blocks)
    assert torch.equal(codec.round_trip(x), codec.quantize(x).dequantize())


def compensated(
    kind: str, weight: torch.Tensor, statistics: Gram, shortfall: torch.Tensor | None = None
) -> tuple[torch.Tensor, float]:
    """Blocks from tensor operations; their output error relative to that of the kernels' blocks.

    At least 99 % of the codes are equal, apart from those of groups with scale 0.
    """
    kernels = BlockCodec(TYPES[kind]).quantize_compensated(weight, statistics, shortfall)
    tensor = DeviceBlockCodec(TYPES[kind]).quantize_compensated(weight, statistics, shortfall)
    assert kernels is not None
    assert tensor is not None
    least, error = (
        float(output_error(each.dequantize() - weight, statistics.captured).double().sum())
        for each in (kernels, tensor)
    )
    layout, size = LAYOUTS[kind], TYPES[kind].row_bytes(TYPES[kind].block)
    blocks = tensor.blocks.view(-1, size)
    scales = layout.scales(blocks).flatten()
    equal = layout.take(blocks) == layout.take(torch.from_numpy(kernels.data).view(-1, size))
    assert float(equal.view(len(scales), -1)[scales != 0].float().mean()) > 0.99
    return tensor.dequantize(), error / least


def matrices() -> tuple[torch.Tensor, Gram]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, COLUMNS, generator=generator)
    x = torch.randn(2000, COLUMNS, generator=generator)
    return weight, Gram.of(x @ torch.randn(COLUMNS, COLUMNS, generator=generator))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("shortfall", [0.0, 0.01])
def test_compensated_codes_are_as_good_as_the_kernels(kind: str, shortfall: float) -> None:
    weight, statistics = matrices()
    missing = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    missing *= shortfall * statistics.diagonal().mean()
    _, ratio = compensated(kind, weight, statistics, missing if shortfall else None)
    assert abs(ratio - 1) < 1e-3


@pytest.mark.parametrize("kind", GRIDS)
def test_errors_of_groups_with_scale_0_are_compensated(kind: str) -> None:
    weight, statistics = matrices()
    weight[:, 32:64] *= 1e-3
    weight[0] = 0
    decoded, ratio = compensated(kind, weight, statistics)
    assert abs(ratio - 1) < 3e-3
    assert torch.equal(decoded[0], torch.zeros(COLUMNS))


def test_types_in_groups_of_32_are_left_to_the_affine_codec() -> None:
    weight = torch.randn(4, COLUMNS)
    assert DeviceBlockCodec(TYPES["Q4_0"]).quantize_compensated(weight, gram("mild")) is None


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_K", "Q8_0"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(kind: str, value: float) -> None:
    weight = torch.randn(4, COLUMNS)
    weight[2, 3] = value
    with pytest.raises(CheckpointError, match="it holds NaN or infinity, or weights too large"):
        DeviceBlockCodec(TYPES[kind]).quantize(weight)


def test_weights_too_large_for_fp16_are_refused() -> None:
    with pytest.raises(SchemeError, match="a weight of 70000 doesn't fit F16; choose BF16 or F32"):
        DeviceBlockCodec(TYPES["F16"]).quantize(torch.full((1, 32), 7e4))


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(SchemeError, match="rows of 320 weights are not a whole number of Q4_K's"):
        DeviceBlockCodec(TYPES["Q4_K"]).quantize(torch.randn(2, 320))
