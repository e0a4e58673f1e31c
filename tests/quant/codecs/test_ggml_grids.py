"""Codes of stored blocks, checked with the gguf library."""

import gguf
import numpy as np
import pytest
import torch

from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec
from phi3quant.quant.codecs.ggml_grids import GRIDS
from phi3quant.quant.gram import Gram, output_error

KINDS = list(GRIDS)


def stored(kind: str) -> np.ndarray:
    weight = torch.randn(24, 512, generator=torch.Generator().manual_seed(3))
    entry = TYPES[kind]
    return entry.encode(weight, None).reshape(-1, entry.row_bytes(entry.block))


@pytest.mark.parametrize("kind", KINDS)
def test_codes_written_into_a_block_are_read_back_on_its_grids(kind: str) -> None:
    blocks, grid = stored(kind), GRIDS[kind]
    scales, least = grid.read(blocks)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, len(grid.values), (len(blocks), TYPES[kind].block), np.uint8)
    grid.put(blocks, codes)
    width = TYPES[kind].block // scales.shape[1]
    expected = np.repeat(scales, width, 1) * grid.values[codes] + np.repeat(least, width, 1)
    read = gguf.quants.dequantize(blocks, TYPES[kind].type)
    np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_writing_a_blocks_own_codes_does_not_change_it(kind: str) -> None:
    blocks, grid = stored(kind), GRIDS[kind]
    scales, least = grid.read(blocks)
    width = TYPES[kind].block // scales.shape[1]
    read = gguf.quants.dequantize(blocks, TYPES[kind].type)
    steps = np.repeat(scales, width, 1)
    values = np.divide(read - np.repeat(least, width, 1), steps, where=steps != 0, out=0 * read)
    codes = abs(values[..., None] - grid.values).argmin(-1)
    again = blocks.copy()
    grid.put(again, codes.astype(np.uint8))
    np.testing.assert_array_equal(gguf.quants.dequantize(again, TYPES[kind].type), read)


@pytest.mark.parametrize("kind", KINDS)
def test_compensation_on_fixed_grids_pays(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(70, 512, generator=generator)
    x = torch.randn(2000, 512, generator=generator) @ torch.randn(512, 512, generator=generator)
    gram = Gram.of(x)
    codec = BlockCodec(TYPES[kind])
    compensated = codec.quantize_compensated(weight, gram)
    assert compensated is not None
    fitted = codec.quantize_fitted(weight, gram)
    after, before = (
        float(output_error(tensor.dequantize() - weight, gram.captured).sum())
        for tensor in (compensated, fitted)
    )
    assert after < 0.7 * before
    blocks = [
        tensor.data.reshape(-1, TYPES[kind].row_bytes(TYPES[kind].block))
        for tensor in (compensated, fitted)
    ]
    for ours, searched in zip(*(GRIDS[kind].read(part) for part in blocks), strict=True):
        np.testing.assert_array_equal(ours, searched)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_dead_inputs_give_finite_weights(kind: str) -> None:
    codec = BlockCodec(TYPES[kind])
    weight = torch.zeros(3, 256)
    weight[1] = torch.linspace(-1, 1, 256)
    tensor = codec.quantize_compensated(weight, Gram.of(torch.zeros(1, 256)))
    assert tensor is not None
    assert torch.isfinite(tensor.dequantize()).all()
    assert torch.equal(tensor.dequantize()[0], torch.zeros(256))
