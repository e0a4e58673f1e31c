"""Bad input: one message, exit code 2, and nothing left behind."""

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from phi3quant.cli.main import main


def spoil(model: Path, name: str, tensor: torch.Tensor) -> None:
    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, name: tensor}, model / "model.safetensors")


@pytest.mark.parametrize(
    ("spoiler", "message"),
    [
        (lambda m: (m / "config.json").unlink(), "no config.json"),
        (lambda m: (m / "config.json").write_text('{"model_type": "gemma"}'), "not 'phi3'"),
        (lambda m: (m / "config.json").write_text("{"), "not readable as JSON"),
        (lambda m: (m / "model.safetensors").unlink(), "no model.safetensors"),
        (
            lambda m: (m / "model.safetensors").write_bytes(
                (m / "model.safetensors").read_bytes()[:-100]
            ),
            "truncated or mislabelled",
        ),
        (lambda m: spoil(m, "model.norm.weight", torch.zeros(3)), r"shape \[3\]"),
        (
            lambda m: spoil(m, "model.norm.weight", torch.full((64,), float("nan"))),
            "model.norm.weight .* NaN",
        ),
        (
            lambda m: spoil(
                m, "model.layers.1.self_attn.o_proj.weight", torch.full((64, 64), float("inf"))
            ),
            "layers.1.self_attn.o_proj.weight .* infinite",
        ),
        (lambda m: (m / "tokenizer.json").unlink(), "neither tokenizer.json nor"),
    ],
)
def test_a_damaged_model_is_named_and_leaves_nothing(
    spoiler: Callable[[Path], object],
    message: str,
    run: Callable[..., Result],
    model: Path,
    prose: Path,
) -> None:
    spoiler(model)
    result = run("awq", model, "-o", "out", "--calib", prose, "--samples", 4, "--seq-len", 64)
    refused(result, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--group-size", "64"), "doesn't divide rows of 96"),
        (("--group-size", "many"), "neither a number nor 'row'"),
        (("--bits", "7"), "7 bits are not supported"),
        (("--bits", "3"), "compressed-tensors holds 4 or 8 bits, not 3; export gptq or mlx"),
        (("--calib", "nowhere.txt"), "there is no text nowhere.txt"),
        (("--seq-len", "100000"), "too short"),
        (("--export", "zip"), "no format 'zip'"),
        (("--no-verify", "--max-ppl-increase", "5%"), "needs the verification"),
        (("--max-ppl-increase", "lots"), "write 5% or 0.05"),
        (("--revision",), "requires an argument"),
    ],
)
def test_a_bad_option_is_explained_and_leaves_nothing(
    words: tuple[str, ...], message: str, run: Callable[..., Result], model: Path, prose: Path
) -> None:
    line = ["awq", model, "-o", "out", "--calib", prose, "--samples", 4, "--seq-len", 64]
    refused(run(*line, *words), message)


def test_calibration_text_that_is_no_text_is_refused(
    run: Callable[..., Result], model: Path, tmp_path: Path
) -> None:
    for content, message in ((b"", "holds no text"), (b"\xff\xfe", "not UTF-8"), (b"a", "short")):
        (tmp_path / "bad.txt").write_bytes(content)
        refused(run("awq", model, "-o", "out", "--calib", tmp_path / "bad.txt"), message)


def test_a_missing_model_says_what_can_be_given(run: Callable[..., Result]) -> None:
    refused(run("awq", "./no-such-folder", "-o", "out"), "there is no folder ./no-such-folder")
    refused(run("perplexity", "./no-such-folder"), "hub id like")


def test_a_truncated_download_ends_with_one_line(
    run: Callable[..., Result], model: Path, prose: Path
) -> None:
    assert run("export", "onnx", model, "-o", "out", "--no-verify").exit_code == 0
    data = Path("out/model.onnx.data")
    data.write_bytes(data.read_bytes()[:-1])
    for words in (("perplexity", "out", "--text", prose, "--window", 64), ("inspect", "out")):
        result = run(*words)
        refused_beside(result, "cut short or replaced: copy it again")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--export", "onnx", "--group-size", "row"), "no scale for whole rows; it holds 4 and 8"),
        (("--opset", "14"), "require onnx among the formats"),
        (("--embedding", "int4"), "--embedding and --head require onnx or mlx"),
        (("--export", "mlx", "--head", "fp32"), "there is no head fp32 in MLX"),
        (("--export", "mlx", "--group-size", "16"), "MLX has groups of 32, 64 or 128, not 16"),
        (("--export", "onnx", "--accuracy-level", "5"), "0<=x<=4"),
        (("--export", "onnx", "--opset", "14", "--embedding", "int8"), "choose fp32 or fp16"),
    ],
)
def test_what_onnx_cannot_do_is_said_before_any_calibration(
    words: tuple[str, ...], message: str, run: Callable[..., Result], model: Path
) -> None:
    refused(run("awq", model, "-o", "out", "--calib", "nowhere.txt", *words), message)


def refused_beside(result: Result, message: str) -> None:
    """As ``refused``, where other output stands."""
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.output


def test_a_full_folder_is_kept(run: Callable[..., Result], model: Path) -> None:
    Path("out").mkdir()
    Path("out/letters").write_text("precious")
    for words, message in (((), "not empty"), (("--overwrite",), "not made by phi3quant")):
        result = run("rtn", model, "-o", "out", "--no-verify", *words)
        assert result.exit_code == 2
        assert message in result.stderr
    assert [path.name for path in Path("out").iterdir()] == ["letters"]


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.output
    assert not list(Path().iterdir())


@pytest.mark.parametrize("kind", ["compressed-tensors", "awq-gemm", "gptq", "gguf", "onnx"])
def test_a_file_that_cannot_grow_is_told_and_leaves_nothing(
    kind: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    # As on a full disk, only that the system says another word for it.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    asymmetric = ["--asym"] if kind == "awq-gemm" else []
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        result = run(
            *("rtn", "phi3-tiny", "--export", kind, "--no-verify", "-o", tmp_path / "out"),
            *asymmetric,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 2, result.output
    assert "a limit allows no file of that size" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rtn", "--ray", "local"), "rtn doesn't calibrate"),
        (("awq", "--ray", "local", "--tune"), "--tune runs on one machine"),
        (("gptq", "--ray", "local", "--target-bpw", "5"), "--target-bpw measures losses"),
        (("awq", "--workers", "2"), "--workers needs --ray"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_work_that_workers_cannot_share_is_refused_before_ray_starts(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(main, [*words, "-q", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_without_ray_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["awq", "--ray", "auto", "-q", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "pip install 'phi3quant[cluster]'" in result.stderr
