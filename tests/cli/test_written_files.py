"""After a run: the files with their sizes, and the next step."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.quant.codecs.kernel_cache import COMPILING
from phi3quant.units import size


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_every_format_lists_its_files_and_the_next_step(run: Callable[..., Result]) -> None:
    formats = ("--export", "compressed-tensors,gguf,onnx")
    result = run("rtn", "phi3-tiny", "-o", "out", *formats, "--no-verify")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for name in ("model.safetensors", "gguf/phi3-tiny-Q4_0.gguf", "onnx/model.onnx.data"):
        file = Path("out") / name
        words = [str(file), *size(file.stat().st_size).split()]
        assert any(line.split() == words for line in lines), result.stdout
    assert [line.split()[:2] for line in lines if "other file" in line] == [
        *(["and", "8"], ["and", "1"], ["and", "10"])
    ]
    assert "  and 1 other file " in result.stdout
    assert result.stderr.splitlines()[-3:] == [
        "next: copy out/gguf/phi3-tiny-Q4_0.gguf to the phone, for an app with llama.cpp",
        "next: copy the folder out/onnx to the phone, for onnxruntime-genai",
        'try:  phi3quant generate out "Hello"',
    ]


def test_quiet_and_json_leave_the_next_step_out(run: Callable[..., Result]) -> None:
    for words in (("-q",), ("--json",)):
        result = run("rtn", "phi3-tiny", "-o", "out", "--no-verify", "--overwrite", *words)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ((), "gguf"),
        (("--group-size", 128), "gguf"),
        (("--group-size", 16), "onnx"),
        (("--bits", 3, "--export", "gptq"), "mlx"),
    ],
)
def test_packed_folders_are_exported_for_phones_next(
    options: tuple[object, ...], kind: str, run: Callable[..., Result]
) -> None:
    result = run("rtn", "phi3-tiny", "-o", "my model", "--no-verify", *options)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("next: "))
    command = line.removeprefix("next: ").partition("   (")[0]
    assert command == f"phi3quant export {kind} 'my model'"
    exported = run(*shlex.split(command)[1:], "--no-verify")
    assert exported.exit_code == 0, exported.output
    assert exported.stderr.splitlines()[-2].startswith("next: copy ")


@pytest.mark.parametrize(("flags", "times"), [((), [1, 0]), (("-q",), [0, 0])])
def test_the_first_compilation_of_kernels_is_announced_once(
    flags: tuple[str, ...], times: list[int], tmp_path: Path
) -> None:
    words = ["rtn", "phi3-tiny", "-o", str(tmp_path / "out"), "--no-verify", "--overwrite"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    announced = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "phi3quant", *words, *flags],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        announced.append(done.stderr.count(COMPILING))
    assert announced == times
