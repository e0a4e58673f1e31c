"""Runs to GGUF the way of a GPU, on the CPU."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from phi3quant.cli.main import main
from phi3quant.quant.codecs.on_device.moves import tensor_codecs
from phi3quant.run import blocks


# The model's weights are random. Compensation multiplies ties that fall differently, which changes
# the perplexity of such a model by as much as quantization does; with it, the wide tolerance only
# shows that the run is sound.
@pytest.mark.parametrize(
    ("word", "tolerance"), [("--no-compensate", 0.03), ("--compensate", 0.1)], ids=str
)
@pytest.mark.parametrize("kind", ["iq4_nl", "q5_k_m"])
def test_blocks_of_tensor_operations_do_as_well_as_those_of_kernels(
    kind: str,
    word: str,
    tolerance: float,
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(output: Path) -> float:
        line = ["awq", str(checkpoint_folder("gqa")), "--calib", str(prose), "--samples", "6"]
        line += ["--seq-len", "64", "--text", str(prose), "--max-tokens", "512", "-q"]
        line += ["--export", "gguf", "--gguf-type", kind, word, "-o", str(output)]
        result = CliRunner().invoke(main, line)
        assert result.exit_code == 0, result.output
        manifest = json.loads((output / "phi3quant.json").read_text(encoding="utf-8"))
        perplexity: float = manifest["verification"]["artifact"]["perplexity"]
        return perplexity

    kernels = run(tmp_path / "kernels")
    monkeypatch.setattr(blocks, "codecs_for", lambda _device, codecs: tensor_codecs(codecs))
    assert run(tmp_path / "tensors") == pytest.approx(kernels, rel=tolerance)
