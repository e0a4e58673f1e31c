"""Runs the way of a GPU, on the CPU: tensor operations, blocks read ahead and written behind."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from calib.activations import HostHidden, parts
from phi3quant.cli.main import main
from phi3quant.errors import DamagedError, DeviceError, MemoryLimitError
from phi3quant.model import device as devices
from phi3quant.model.device import CPU, device_name, find_device
from phi3quant.quant.codecs.on_device.moves import tensor_codecs
from phi3quant.run import blocks, one_block
from phi3quant.run.memory_budget import Needs, Place, place_for_gpu
from phi3quant.run.overlap import behind, block_reader
from phi3quant.source.checkpoint import open_checkpoint

GIB = 1 << 30


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "codecs_for", lambda _device, codecs: tensor_codecs(codecs))
    monkeypatch.setattr(blocks.Work, "overlaps", True)


def run(model: Path, prose: Path, output: Path, *words: str) -> float:
    """Perplexity of a run's result."""
    method, *options = words
    sizes = ("--samples", "6", "--seq-len", "64", "--text", str(prose), "--max-tokens", "512", "-q")
    line = [method, str(model), "--calib", str(prose), *sizes, *options, "-o", str(output)]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    manifest = json.loads((output / "phi3quant.json").read_text(encoding="utf-8"))
    perplexity: float = manifest["verification"]["artifact"]["perplexity"]
    return perplexity


@pytest.mark.parametrize("name", ["gqa", "mha"])
@pytest.mark.parametrize(
    "words",
    [
        ("awq",),
        ("awq", "--asym", "--group-size", "16"),
        ("awq", "--no-compensate"),
        ("gptq", "--bits", "8"),
        ("rtn",),
    ],
    ids=" ".join,
)
def test_tensor_operations_do_as_well_as_kernels(
    name: str,
    words: tuple[str, ...],
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    model = checkpoint_folder(name)
    kernels = run(model, prose, tmp_path / "kernels", *words)
    request.getfixturevalue("as_on_a_gpu")
    tensors = run(model, prose, tmp_path / "tensors", *words)
    # Rounding chooses some codes otherwise; that moves a random model's perplexity by 1 to 2 %.
    assert tensors == pytest.approx(kernels, rel=3e-2)
    if words == ("rtn",):
        weights = [tmp_path / each / "model.safetensors" for each in ("kernels", "tensors")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_run_that_was_killed_resumes_to_the_same_weights(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = checkpoint_folder("gqa")
    run(model, prose, tmp_path / "whole", "awq")
    whole = one_block.quantize_block
    calls: list[int] = []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(one_block, "quantize_block", interrupted)
    line = ["awq", str(model), "--calib", str(prose), "--samples", "6", "--seq-len", "64", "-q"]
    line += ["--text", str(prose), "--max-tokens", "512", "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(main, line).exit_code != 0
    resumed = CliRunner().invoke(main, [*line, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    weights = [tmp_path / each / "model.safetensors" for each in ("whole", "out")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_blocks_are_read_ahead(checkpoint_folder: Callable[[str], Path]) -> None:
    checkpoint = open_checkpoint(checkpoint_folder("gqa"))
    with block_reader(checkpoint, CPU, ahead=True) as reader:
        for index in (0, 1, 0):
            for key, value in checkpoint.block(index).items():
                assert torch.equal(reader.full(index)[key], value)


def test_damaged_weights_are_named(
    checkpoint_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(checkpoint_folder("gqa"))
    with block_reader(checkpoint, CPU, ahead=True) as reader:
        block = dict(checkpoint.stored_block(1))
        block["o_proj"] = torch.full_like(block["o_proj"], float("inf"))
        monkeypatch.setattr(reader, "_locked", lambda _index: block)
        with pytest.raises(DamagedError, match="block 1"):
            reader.full(1)


def test_work_is_done_behind_in_order_and_errors_are_raised() -> None:
    done: list[int] = []
    gate = threading.Event()
    with behind(overlapping=True) as later:
        later(gate.wait)  # type: ignore[arg-type]
        gate.set()
        for number in range(5):
            later(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == [0, 1, 2, 3, 4]

    def fail() -> None:
        raise OSError(28, "no space left")

    with pytest.raises(OSError, match="no space"), behind(overlapping=True) as later:
        later(fail)


def test_states_in_the_hosts_memory_are_changed_in_place() -> None:
    values = torch.arange(24.0).view(4, 3, 2)
    stored = HostHidden(values.clone(), CPU)
    for part in parts(stored, 3, changed=True):
        part.mul_(2)
    assert torch.equal(stored.values, 2 * values)


@pytest.mark.parametrize(
    ("limit", "free", "host", "expected"),
    [
        (None, 80 * GIB, 64 * GIB, Place.DEVICE),
        (6 * GIB, 80 * GIB, 64 * GIB, Place.HOST),
        (6 * GIB, 80 * GIB, 1 * GIB, Place.DISK),
        (None, 6 * GIB, 64 * GIB, Place.HOST),
        (None, None, 64 * GIB, Place.DEVICE),
    ],
)
def test_hidden_states_are_kept_where_they_fit(
    limit: int | None,
    free: int | None,
    host: int,
    expected: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("phi3quant.run.memory_budget.available_memory", lambda: host)
    assert place_for_gpu(Needs(4 * GIB, 2 * GIB, 0), limit, free) is expected


def test_a_gpu_that_is_too_small_is_refused() -> None:
    with pytest.raises(MemoryLimitError, match=r"the GPU has 2\.15 GB.*the device cpu"):
        place_for_gpu(Needs(4 * GIB, 0, 0), None, 2 * GIB)
    with pytest.raises(MemoryLimitError, match=r"max_memory=\.\.\.\) is 1\.07 GB"):
        place_for_gpu(Needs(4 * GIB, 0, 0), GIB, 80 * GIB)


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == CPU
    assert device_name(CPU) == "cpu"
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", ""):
        with pytest.raises(DeviceError, match="choose auto, cpu, cuda, cuda:N or mps"):
            find_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_trouble", lambda _device: "")
    assert find_device() == find_device("cuda") == torch.device("cuda", 0)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="no GPU cuda:2, cuda:0 to cuda:1"):
        find_device("cuda:2")
    monkeypatch.setattr(devices, "_trouble", lambda _device: "no kernel image")
    assert find_device() == CPU
    with pytest.raises(DeviceError, match=r"can't compute \(no kernel image\)"):
        find_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["awq", "rtn", "evaluate", "generate", "report", "check"])
def test_a_missing_gpu_ends_a_command_before_any_work(command: str, tmp_path: Path) -> None:
    words = {
        "generate": ["phi3-tiny", "hot?"],
        "report": [str(tmp_path)],
        "check": ["phi3-tiny", "--baseline", str(tmp_path / "none")],
    }.get(command, ["phi3-tiny"])
    result = CliRunner().invoke(main, [command, *words, "--device", "cuda"])
    assert result.exit_code == 2 or isinstance(result.exception, DeviceError)
    assert "CUDA" in result.output + str(result.exception)
