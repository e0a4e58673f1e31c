"""Blocks of llama.cpp's types from the GPU next to the CPU's. Without a CUDA GPU: skipped."""

import pytest
import torch

from phi3quant.quant.codecs.ggml_blocks import TYPES, BlockCodec
from phi3quant.quant.codecs.ggml_grids import GRIDS
from phi3quant.quant.codecs.on_device.block_encoders import ENCODERS
from phi3quant.quant.codecs.on_device.blocks import DeviceBlockCodec
from phi3quant.quant.gram import Gram

PLAIN = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


def matrices(rows: int = 300) -> tuple[torch.Tensor, Gram]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, 512, generator=generator)
    weight *= torch.rand(rows, 1, generator=generator)
    weight[3], weight[4] = 0, 1e-42
    mixing = torch.randn(512, 512, generator=generator)
    return weight, Gram.of(torch.randn(4000, 512, generator=generator) @ mixing)


def on(device: torch.device, gram: Gram) -> Gram:
    return Gram(gram.captured.to(device), gram.mean_abs.to(device), gram.tokens)


def equal_share(kind: str, blocks: torch.Tensor, others: torch.Tensor) -> float:
    size = TYPES[kind].row_bytes(TYPES[kind].block)
    return float((blocks.cpu() == others).view(-1, size).all(dim=1).float().mean())


@pytest.mark.parametrize("kind", TYPES)
def test_decoded_weights_are_equal(gpu: torch.device, kind: str) -> None:
    weight, _ = matrices()
    there = DeviceBlockCodec(TYPES[kind]).quantize(weight.to(gpu))
    assert torch.equal(there.dequantize().cpu(), there.stored().dequantize())


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_rounding_is_equal(gpu: torch.device, kind: str) -> None:
    weight, _ = matrices()
    expected = BlockCodec(TYPES[kind]).quantize(weight).data
    there = DeviceBlockCodec(TYPES[kind]).quantize(weight.to(gpu))
    assert torch.equal(there.blocks.cpu(), torch.from_numpy(expected))


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("rows", [300, 6000])  # replayed, and called
def test_searches_are_nearly_equal(gpu: torch.device, kind: str, rows: int) -> None:
    weight, gram = matrices(rows)
    codec = DeviceBlockCodec(TYPES[kind])
    expected = torch.from_numpy(BlockCodec(TYPES[kind]).quantize_fitted(weight, gram).data)
    for _ in range(2):  # captured, then replayed
        there = codec.quantize_fitted(weight.to(gpu), on(gpu, gram))
        assert equal_share(kind, there.blocks, expected) > 0.95
    expected = torch.from_numpy(BlockCodec(TYPES[kind]).quantize(weight).data)
    assert equal_share(kind, codec.quantize(weight.to(gpu)).blocks, expected) > 0.95


@pytest.mark.parametrize("kind", GRIDS)
def test_compensated_blocks_are_as_good(gpu: torch.device, kind: str) -> None:
    weight, gram = matrices()
    codecs = (BlockCodec(TYPES[kind]), DeviceBlockCodec(TYPES[kind]))
    cpu = codecs[0].quantize_compensated(weight, gram)
    there = codecs[1].quantize_compensated(weight.to(gpu), on(gpu, gram))
    assert cpu is not None
    assert there is not None
    least, loss = (
        float(gram.output_error(each.dequantize().cpu() - weight).sum()) for each in (cpu, there)
    )
    assert abs(loss / least - 1) < 0.005
