"""Matrices as integers times scales, for every quantized type."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.quant.codecs import affine
from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec
from phi3quant.quant.ggml_types import SCALE_PLACES
from phi3quant.quant.offset_tensor import with_offsets
from phi3quant.quant.scaled_terms import has_terms, terms_of, with_scales
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized

_SCHEMES = [
    QuantScheme(bits, size, symmetric)
    for bits in (4, 8)
    for size in (32, 64, None)
    for symmetric in (True, False)
]


def _weights(seed: int = 0) -> torch.Tensor:
    weights = torch.randn(6, 512, generator=torch.Generator().manual_seed(seed))
    weights[1, :256] = 0
    return weights


def _every_kind(weights: torch.Tensor) -> list[Quantized]:
    affines = [affine.quantize(weights, scheme) for scheme in _SCHEMES]
    blocks = [BlockCodec(TYPES[name]).quantize(weights) for name in SCALE_PLACES]
    return [*affines, *map(with_offsets, affines), *blocks]


@given(st.integers(0, 1000))
def test_the_terms_add_up_to_the_matrix(seed: int) -> None:
    for matrix in _every_kind(_weights(seed)):
        total = sum(term.values * term.scales.unsqueeze(-1) for term in terms_of(matrix))
        assert isinstance(total, torch.Tensor)
        torch.testing.assert_close(
            total.reshape(matrix.shape), matrix.dequantize(), rtol=1e-6, atol=1e-6
        )


def test_the_stored_scales_give_the_same_matrix_to_the_bit() -> None:
    for matrix in _every_kind(_weights()):
        again = with_scales(matrix, [term.scales for term in terms_of(matrix)])
        assert torch.equal(again.dequantize(), matrix.dequantize())


def test_other_scales_give_the_matrix_that_they_stand_for() -> None:
    for matrix in _every_kind(_weights()):
        terms = terms_of(matrix)
        changed = with_scales(matrix, [term.scales * 1.5 for term in terms])
        # FP16 rounds the scales; a difference of large terms keeps their rounding errors.
        torch.testing.assert_close(
            changed.dequantize(), matrix.dequantize() * 1.5, rtol=2e-3, atol=2e-2
        )
        for before, after in zip(terms, terms_of(changed), strict=True):
            assert torch.equal(before.values, after.values)


def test_plain_matrices_have_no_terms() -> None:
    weights = _weights()
    assert not has_terms(weights)
    assert not has_terms(BlockCodec(TYPES["F16"]).quantize(weights))
    assert all(map(has_terms, _every_kind(weights)))


def test_a_change_leaves_the_original_alone() -> None:
    matrix = BlockCodec(TYPES["Q4_K"]).quantize(_weights())
    before = matrix.data.copy()
    with_scales(matrix, [term.scales * 2 for term in terms_of(matrix)])
    assert (replace(matrix).data == before).all()


@pytest.mark.parametrize("name", SCALE_PLACES)
def test_every_quantized_type_has_places(name: str) -> None:
    assert set(SCALE_PLACES) == {kind for kind in TYPES if kind not in ("F32", "F16", "BF16")}
    assert TYPES[name].row_bytes(TYPES[name].block) >= max(SCALE_PLACES[name]) + 2
