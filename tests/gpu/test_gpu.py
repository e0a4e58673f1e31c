"""The GPU's results next to the CPU's. Without a CUDA GPU these tests are skipped."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from calib.activations import Shelf, parts
from calib.capture import collect
from phi3quant import evaluate
from phi3quant.cli.main import main
from phi3quant.errors import MemoryLimitError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.model.decoder_block import decoder_block, sequence_context
from phi3quant.model.device import computing_on, find_device
from phi3quant.quant.codecs.on_device.affine import AffineDeviceCodec
from phi3quant.quant.codecs.on_device.replay import Replayed
from phi3quant.quant.gram import Gram
from phi3quant.quant.scheme import QuantScheme
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.locate import bundled_folder

SCHEMES = [
    QuantScheme(bits, size, symmetric)
    for bits, size, symmetric in itertools.product((4, 8), (32, 64, None), (True, False))
]


def matrices(seed: int = 0) -> tuple[torch.Tensor, Gram, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(300, 256, generator=generator)
    weight *= torch.rand(300, 1, generator=generator)
    weight[3] = 0
    mixing = torch.randn(256, 256, generator=generator)
    inputs = torch.randn(4000, 256, generator=generator) @ mixing
    return weight, Gram.of(inputs), 0.01 * torch.randn(300, 256, generator=generator)


def on(device: torch.device, gram: Gram) -> Gram:
    return Gram(gram.captured.to(device), gram.mean_abs.to(device), gram.tokens)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_codes(gpu: torch.device, scheme: QuantScheme) -> None:
    weight, gram, shortfall = matrices()
    codec = AffineDeviceCodec(scheme)
    cpu, there = codec.quantize(weight), codec.quantize(weight.to(gpu))
    assert torch.equal(cpu.codes, there.codes.cpu())
    assert torch.equal(cpu.scales, there.scales.cpu())
    assert torch.equal(cpu.dequantize(), there.dequantize().cpu())
    fitted = codec.quantize_fitted(weight, gram)
    fitted_there = codec.quantize_fitted(weight.to(gpu), on(gpu, gram))
    # Another FP16 scale, as good by a hair, may change many codes of a group.
    assert (fitted.codes == fitted_there.codes.cpu()).float().mean() > 0.9
    for _ in range(2):  # captured, then replayed
        compensated = codec.quantize_compensated(weight, gram, shortfall)
        there = codec.quantize_compensated(weight.to(gpu), on(gpu, gram), shortfall.to(gpu))
        assert (compensated.codes == there.codes.cpu()).float().mean() > 0.9
        losses = [
            float(gram.output_error(each.dequantize().cpu() - weight).sum())
            for each in (compensated, there)
        ]
        assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_blocks_and_statistics(gpu: torch.device) -> None:
    checkpoint = open_checkpoint(bundled_folder())
    block = checkpoint.block(0)
    moved = {key: value.to(gpu) for key, value in block.items()}
    hidden = torch.randn(9, 512, checkpoint.config.hidden_size, generator=torch.manual_seed(1))
    here = sequence_context(checkpoint.config, 512)
    there = sequence_context(checkpoint.config, 512, device=gpu)
    expected = decoder_block(block, here, hidden)
    torch.testing.assert_close(
        decoder_block(moved, there, hidden.to(gpu)).cpu(), expected, rtol=1e-4, atol=1e-4
    )
    grams, grams_there = collect(block, here, hidden), collect(moved, there, hidden.to(gpu))
    for name, gram in grams.items():
        torch.testing.assert_close(
            grams_there[name].captured.cpu(), gram.captured, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("place", ["device", "host", "disk"])
def test_states_are_changed_wherever_they_are(
    gpu: torch.device, place: str, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path if place == "disk" else None, gpu, on_host=place == "host")
    values = torch.arange(5 * 3 * 2, dtype=torch.float32).view(5, 3, 2)
    stored = shelf.put("some", iter(torch.split(values, 1)), (5, 3, 2))
    for part in parts(stored, 2, changed=True):
        assert part.device == gpu
        part.mul_(2)
    assert torch.equal(torch.cat([part.cpu() for part in parts(stored, 2)]), 2 * values)


def test_replayed_functions_see_new_inputs(gpu: torch.device) -> None:
    replayed = Replayed(lambda x, y: (x @ y, x + 1))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(8, 8, generator=generator).to(gpu) for _ in range(2))
        product, more = replayed(x, y)
        torch.testing.assert_close(product, x @ y)
        torch.testing.assert_close(more, x + 1)


def test_scores(gpu: torch.device) -> None:
    text = EvaluationText(max_tokens=4096)
    here = evaluate(["phi3-tiny"], text, device="cpu").comparisons[0].candidate
    there = evaluate(["phi3-tiny"], text, device=str(gpu)).comparisons[0].candidate
    assert there.perplexity == pytest.approx(here.perplexity, rel=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        ("awq",),
        ("gptq", "--asym", "--group-size", "64"),
        ("rtn",),
        ("awq", "--export", "gguf", "--gguf-type", "q4_k_m"),
        ("awq", "--max-memory", "3.5GB"),
    ],
    ids=" ".join,
)
def test_runs(gpu: torch.device, words: tuple[str, ...], tmp_path: Path) -> None:
    ratios = []
    for device in ("cpu", str(gpu)):
        line = [*words, "--device", device, "--samples", "16", "--json", "-q"]
        out = tmp_path / device.replace(":", "-")
        result = CliRunner().invoke(main, [words[0], "phi3-tiny", *line[1:], "-o", str(out)])
        assert result.exit_code == 0, result.output
        # Formats in folders of their own have manifests there.
        manifest = json.loads((out / "phi3quant.json").read_text(encoding="utf-8"))
        assert ("device" in manifest) == (device != "cpu")
        ratios.append(manifest["verification"]["artifact"]["perplexity"])
    assert ratios[1] == pytest.approx(ratios[0], rel=5e-3)


def test_full_memory_is_a_message(gpu: torch.device) -> None:
    with pytest.raises(MemoryLimitError, match="the device cpu"), computing_on(gpu, 1 << 28):
        torch.empty(1 << 30, device=gpu)


def test_auto_takes_the_gpu(gpu: torch.device) -> None:
    assert find_device() == gpu
