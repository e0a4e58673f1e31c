"""After a run: the files with their sizes, and the next step."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.quant.codecs.kernel_cache import COMPILING


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_every_format_lists_its_files_and_the_next_step(run: Callable[..., Result]) -> None:
    formats = ("--export", "compressed-tensors,gguf,onnx")
    result = run("rtn", "phi3-tiny", "-o", "out", *formats, "--no-verify")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for file, size in (
        ("out/model.safetensors", "3.44 MB"),
        ("out/gguf/phi3-tiny-Q4_0.gguf", "2.08 MB"),
        ("out/onnx/model.onnx.data", "2.92 MB"),
    ):
        assert any(line.split() == [file, *size.split()] for line in lines), result.stdout
        assert Path(file).is_file()
    assert sum(line.startswith("  and ") and "other files" in line for line in lines) == 3
    assert result.stderr.splitlines()[-4:] == [
        "next: for phones: phi3quant export gguf out",
        "next: copy out/gguf/phi3-tiny-Q4_0.gguf to the phone, for an app with llama.cpp",
        "next: copy the folder out/onnx to the phone, for onnxruntime-genai",
        'try:  phi3quant generate out "Hello"',
    ]


def test_quiet_and_json_leave_the_next_step_out(run: Callable[..., Result]) -> None:
    for words in (("-q",), ("--json",)):
        result = run("rtn", "phi3-tiny", "-o", "out", "--no-verify", "--overwrite", *words)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""


def test_the_next_step_quotes_names_with_spaces(run: Callable[..., Result]) -> None:
    result = run("rtn", "phi3-tiny", "-o", "my model", "--no-verify")
    assert "phi3quant export gguf 'my model'" in result.stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_the_first_compilation_of_kernels_is_announced_once(quiet: bool, tmp_path: Path) -> None:
    words = ["rtn", "phi3-tiny", "-o", str(tmp_path / "out"), "--no-verify", "--overwrite"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    announced = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "phi3quant", *words, *(["-q"] if quiet else [])],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        announced.append(done.stderr.count(COMPILING))
    assert announced == [0 if quiet else 1, 0]
