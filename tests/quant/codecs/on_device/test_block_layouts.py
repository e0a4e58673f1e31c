"""Layouts of blocks compared with the gguf library and with the layouts of the CPU's kernels."""

import gguf
import numpy as np
import pytest
import torch

from phi3quant.quant.codecs.ggml_blocks import TYPES
from phi3quant.quant.codecs.ggml_grids import GRIDS
from phi3quant.quant.codecs.on_device.block_layouts import LAYOUTS
from phi3quant.quant.codecs.on_device.block_tensor import BlocksOnDevice

COLUMNS = 512
HALVES = {"Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2)} | dict.fromkeys(
    ("Q4_1", "Q5_1"), (0, 2)
)


def blocks_of(kind: str) -> torch.Tensor:
    """Random bytes with finite FP16 numbers, uint8 [blocks, block_bytes]."""
    entry = TYPES[kind]
    rng = np.random.default_rng(4)
    blocks = rng.integers(0, 256, (64, entry.row_bytes(entry.block)), np.uint8)
    for start in HALVES.get(kind, (0,)):
        numbers = rng.standard_normal((64, 1)).astype(np.float16)
        blocks[:, start : start + 2] = numbers.view(np.uint8)
    return torch.from_numpy(blocks)


@pytest.mark.parametrize("kind", TYPES)
def test_weights_equal_the_gguf_librarys(kind: str) -> None:
    entry = TYPES[kind]
    if kind in LAYOUTS:
        rows = blocks_of(kind).view(-1, entry.row_bytes(COLUMNS))
    else:
        rows = torch.from_numpy(entry.encode(torch.randn(8, COLUMNS), None))
    expected = gguf.quants.dequantize(rows.numpy(), entry.type)
    tensor = BlocksOnDevice(entry, rows, (len(rows), COLUMNS))
    np.testing.assert_array_equal(tensor.dequantize().numpy(), expected)
    np.testing.assert_array_equal(tensor.stored().data, rows.numpy())


def test_weights_do_not_depend_on_the_size_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = blocks_of("Q4_K").view(-1, TYPES["Q4_K"].row_bytes(COLUMNS))
    tensor = BlocksOnDevice(TYPES["Q4_K"], rows, (len(rows), COLUMNS))
    whole = tensor.dequantize()
    monkeypatch.setattr("phi3quant.quant.codecs.on_device.block_tensor.CHUNK_WEIGHTS", 2000)
    assert torch.equal(tensor.dequantize(), whole)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_codes_written_into_a_block_are_read_back(kind: str) -> None:
    layout, blocks = LAYOUTS[kind], blocks_of(kind)
    generator = torch.Generator().manual_seed(1)
    shape = (len(blocks), TYPES[kind].block)
    count = len(layout.values.numbers)
    codes = torch.randint(count, shape, generator=generator, dtype=torch.uint8)
    scales = layout.scales(blocks)
    layout.put(blocks, codes)
    assert torch.equal(layout.take(blocks), codes)
    assert torch.equal(layout.scales(blocks), scales)


@pytest.mark.parametrize("kind", GRIDS)
def test_scales_minima_and_codes_lie_where_the_kernels_put_them(kind: str) -> None:
    layout, grid, blocks = LAYOUTS[kind], GRIDS[kind], blocks_of(kind)
    scales, least = grid.read(blocks.numpy())
    np.testing.assert_array_equal(layout.scales(blocks).numpy(), scales)
    if layout.minima is not None:
        np.testing.assert_array_equal(layout.minima(blocks).numpy(), least)
    codes = layout.take(blocks).flip(1)
    expected = blocks.numpy().copy()
    grid.put(expected, codes.numpy())
    layout.put(blocks, codes)
    np.testing.assert_array_equal(blocks.numpy(), expected)
