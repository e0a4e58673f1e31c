"""Rows of a matrix that a team shares have the bits of the whole matrix on one machine."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from phi3quant.model.wide_products import wide_products
from phi3quant.quant.codecs import Codec
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec
from phi3quant.quant.codecs.row_parts import quantize_compensated, rows_are_exact
from phi3quant.quant.gram import Gram
from phi3quant.quant.scheme import QuantScheme
from phi3quant.team import rows_of

pytestmark = pytest.mark.skipif(
    not rows_are_exact(), reason="teams don't split rows on this kind of CPU"
)
SHAPES = [(192, 96, 64), (200, 256, 256), (1024, 768, 768), (640, 128, 2944), (512, 1024, 256)]


class Alternating:
    """A team whose members work one after the other; implements Team for one exchange."""

    splits_rows = True

    def __init__(self, rank: int, parcels: list[Sequence[Any]]) -> None:
        self.rank = rank
        self.size = len(parcels)
        self.parcels = parcels

    def gather(self, parcels: Sequence[Any]) -> Iterator[Sequence[Any]]:
        self.parcels[self.rank] = parcels
        yield from self.parcels


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def product(rows: torch.Tensor, inner: int, columns: int) -> torch.Tensor:
    return rows @ random(inner, columns)


def update(rows: torch.Tensor, inner: int, columns: int) -> torch.Tensor:
    return torch.ones(len(rows), columns).addmm_(rows, random(inner, columns), alpha=-1)


def solution(rows: torch.Tensor, inner: int, _columns: int) -> torch.Tensor:
    lower = torch.linalg.cholesky(Gram.of(random(2 * inner, inner)).captured)
    solved: torch.Tensor = torch.linalg.solve_triangular(lower, rows, upper=False, left=False)
    return solved


@pytest.fixture(autouse=True)
def as_in_a_run() -> Iterator[None]:
    with wide_products():
        yield


@pytest.mark.parametrize("operation", [product, update, solution])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_products_and_solutions_of_parts_are_those_of_the_whole(
    operation: Callable[[torch.Tensor, int, int], torch.Tensor],
    shape: tuple[int, int, int],
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    rows, inner, columns = shape
    matrix = random(rows, inner)
    whole = operation(matrix, inner, columns)
    for size in (2, 3, 7):
        for rank in range(size):
            part = rows_of(Alternating(rank, [()] * size), rows)
            assert torch.equal(operation(matrix[part], inner, columns), whole[part])


@pytest.mark.parametrize(
    "codec",
    [
        AffineCodec(QuantScheme(4, 32)),
        AffineCodec(QuantScheme(4, 64, symmetric=False)),
        BlockCodec(TYPES["Q4_K"]),
        BlockCodec(TYPES["Q8_0"]),
        BlockCodec(TYPES["F16"]),
    ],
    ids=["int4", "asymmetric", "Q4_K", "Q8_0", "F16"],
)
# Of 200 rows, the last part has no multiple of 64; seven members share three parts.
@pytest.mark.parametrize("size", [1, 2, 7])
def test_compensated_parts_are_those_of_the_whole(codec: Codec, size: int) -> None:
    weight, gram, shortfall = random(200, 256), Gram.of(random(900, 256)), random(200, 256) * 0.01
    whole = codec.quantize_compensated(weight, gram, shortfall)
    parcels: list[Sequence[Any]] = [()] * size
    for rank in range(size):
        part = rows_of(Alternating(rank, parcels), 200)
        if part.start < part.stop:
            parcels[rank] = [codec.quantize_compensated(weight[part], gram, shortfall[part])]
    team = Alternating(size - 1, parcels)
    joined = quantize_compensated(codec, weight, gram, shortfall[rows_of(team, 200)], team)
    if whole is None:
        assert joined is None
        return
    assert joined is not None
    assert torch.equal(joined.dequantize(), whole.dequantize())
    assert joined.shape == whole.shape == (200, 256)
