import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click import BadParameter, Context
from click.testing import Result

from converters import LAYOUTS
from phi3quant.cli.main import main
from phi3quant.cli.values import Percent
from phi3quant.evaluation.paired_statistics import PairedMean
from phi3quant.evaluation.perplexity import Comparison, Score
from phi3quant.quant.gram import Gram

COMMANDS = (
    *("awq", "gptq", "rtn", "evaluate", "inspect", "export", "estimate", "generate"),
    *("baseline", "check", "compare", "verify", "audit", "report", "imatrix", "sweep", "tune"),
)


def test_awq_makes_a_verified_folder(run: Callable[..., Result], model: Path, prose: Path) -> None:
    result = run(
        *("awq", model, "--bits", 4, "-o", "out", "--calib", prose, "--text", prose),
        *("--samples", 8, "--seq-len", 64, "--window", 64),
    )
    assert result.exit_code == 0, result.output
    assert "95 % interval" in result.output
    assert "AWQ int4 sym g32" in result.output
    assert Path("out/model.safetensors").exists()
    assert [path.name for path in Path().iterdir()] == ["out"]


def test_inputs_that_calibration_learns_nothing_from_are_reported(
    run: Callable[..., Result], model: Path, prose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("awq", model, "--calib", prose, "--samples", 4, "--seq-len", 64, "--no-verify")
    healthy = run(*line, "-o", "healthy", "--quiet")
    assert "warning" not in healthy.output
    blocks = json.loads(Path("healthy/phi3quant.json").read_text())["blocks"]
    assert not any("degenerate" in block for block in blocks)
    monkeypatch.setattr(Gram, "degenerate", property(lambda gram: len(gram.mean_abs) == 96))
    result = run(*line, "-o", "out", "--quiet")
    assert result.exit_code == 0, result.output
    assert "warning: in block 0, the inputs of" in result.stdout
    blocks = json.loads(Path("out/phi3quant.json").read_text())["blocks"]
    assert all(block["degenerate"] == ["down_proj"] for block in blocks)


def test_results_come_as_json(run: Callable[..., Result], model: Path, prose: Path) -> None:
    result = run("rtn", model, "-o", "out", "--text", prose, "--window", 64, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["scheme"] == "int4 sym g32"
    figures = made["evaluation"]["models"][1]
    assert figures["ratio_95"][0] < figures["ratio"] < figures["ratio_95"][1]
    scored = run("perplexity", model, "out", "--text", prose, "--window", 64, "--json")
    assert json.loads(scored.stdout)["models"][1]["ratio"] == figures["ratio"]
    inspected = json.loads(run("inspect", "out", "--json").stdout)
    assert inspected["manifest"]["recipe"]["method"] == "rtn"
    assert inspected["architecture"]["num_key_value_heads"] == 2


def test_the_bundled_model_is_used_and_named_when_none_is_given(
    run: Callable[..., Result],
) -> None:
    result = run("awq", "--bits", 4, "--samples", 4, "--max-tokens", 1024)
    assert result.exit_code == 0, result.output
    assert "using the bundled phi3-tiny" in result.stderr
    assert Path("phi3-tiny-awq-4bit/model.safetensors").exists()
    scored = run("perplexity", "phi3-tiny-awq-4bit", "--max-tokens", 1024, "--quiet")
    assert "tiny/evaluation" in scored.output


def test_a_missed_limit_exits_with_1_and_keeps_the_result(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "paired", PairedMean(mean=0.1, error=0.001, windows=30))
    line = ("rtn", "phi3-tiny", "--max-tokens", 64, "--window", 32)
    passed = run(*line, "-o", "a", "--max-ppl-increase", "90%")
    failed = run(*line, "-o", "b", "--max-ppl-increase", "10%")
    assert passed.exit_code == 0, passed.output
    assert failed.exit_code == 1
    assert "FAIL: b: perplexity is 1.1052 of full precision" in failed.stderr
    assert "an increase of 10.00% is allowed" in failed.stderr
    assert Path("b/phi3quant.json").exists()


def test_onnx_is_made_scored_and_found_by_its_name(
    run: Callable[..., Result], model: Path, prose: Path
) -> None:
    text = ("--text", prose, "--window", 64)
    result = run("rtn", model, "-o", "out", "--export", "onnx", "--head", "int4", *text)
    assert result.exit_code == 0, result.output
    assert "out (level 4)" in result.output
    assert "out (level 0)" in result.output
    # OUT itself is of the first format, and OUT/FORMAT finds it all the same.
    scored = json.loads(run("perplexity", "out/onnx", *text, "--json").stdout)
    names = [entry["name"] for entry in scored["models"]]
    assert names == ["out (level 4)", "out (level 0)"]
    packed = run("rtn", model, "-o", "packed", "--no-verify")
    assert packed.exit_code == 0, packed.output
    line = ("export", "onnx", "packed", "--opset", 14, "--split-size", "20K", "--json")
    exported = json.loads(run(*line, "-o", "later", *text).stdout)
    assert [Path(name).name for name in exported["files"]] == sorted(
        path.name for path in Path("later").glob("model.onnx*")
    )
    assert len(exported["files"]) > 3
    inspected = run("inspect", "later")
    assert "ONNX int4 sym g32" in inspected.output
    assert "opset 14" in inspected.output
    refused = run("rtn", "later")
    assert refused.exit_code == 2
    assert "later is an ONNX model already" in refused.stderr


# Runs the command line; the first wait for the disk is when the signal in argv[1] strikes.
STRUCK = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
from phi3quant.__main__ import run
number, wait = int(sys.argv.pop(1)), os.fsync

def fsync(descriptor):
    os.fsync = wait
    signal.raise_signal(number)

os.fsync = fsync
run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    words = ["rtn", "--bits", "4", "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, str(int(number)), *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "nothing was left half-written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_interruption_that_a_library_turns_into_an_error_counts_as_one(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: object, **_named: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("something inside broke") from None

    monkeypatch.setattr("phi3quant.cli.inspect.inspection.inspect", interrupted)
    result = run("inspect")
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(command: str, run: Callable[..., Result]) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    lines = [line.strip() for line in result.output.splitlines()[1:]]
    assert any(line.startswith(f"phi3quant {command} ") for line in lines)


@pytest.mark.parametrize("kind", ["gguf", "onnx", "safetensors", *LAYOUTS])
def test_every_export_helps_with_an_example(kind: str, run: Callable[..., Result]) -> None:
    result = run("export", kind, "--help")
    assert result.exit_code == 0
    assert f"  phi3quant export {kind} phi3-4bit\n" in result.output


def test_no_arguments_show_the_commands(run: Callable[..., Result]) -> None:
    result = run()
    assert all(command in result.output for command in COMMANDS)
    assert set(main.list_commands(Context(main))) == set(COMMANDS)


@pytest.mark.parametrize(
    ("given", "share"),
    [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("0.5", 0.5), ("150%", 1.5), ("8 %", 0.08)],
)
def test_a_percentage_may_be_written_either_way(given: str, share: float) -> None:
    assert Percent().convert(given, None, None) == pytest.approx(share)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("8", "'8' would be 800%; write 8% or 0.08"),
        ("1", "write 1% or 0.01"),
        ("2.5", "write 2.5% or 0.025"),
        ("1e3", "write 1e3% or 10"),
        ("nan", "must not be negative or infinite"),
        ("inf%", "must not be negative or infinite"),
        ("-1%", "must not be negative or infinite"),
    ],
)
def test_a_bare_percentage_is_refused_with_what_was_probably_meant(
    given: str, message: str
) -> None:
    with pytest.raises(BadParameter, match=re.escape(message)):
        Percent().convert(given, None, None)


def test_awq_gates_by_the_rule_of_check(run: Callable[..., Result]) -> None:
    line = ("rtn", "phi3-tiny", "--max-ppl-increase", "0.5%")
    # Worse by more than the limit, but not surely: windows of one text, too few to tell.
    short = run(*line, "-o", "a", "--window", 128, "--max-tokens", 512)
    assert short.exit_code == 3, short.output
    assert "TOO LITTLE TEXT: a: perplexity is" in short.stderr
    assert "an increase of 0.50% is allowed" in short.stderr
    single = run(*line, "-o", "b", "--window", 128, "--max-tokens", 128)
    assert single.exit_code == 3, single.output
    passed = run(*line[:-1], "50%", "-o", "c", "--max-tokens", 8192)
    assert passed.exit_code == 0, passed.output
    assert "PASS: c: perplexity is" in passed.stderr
    assert "an increase of 50.00% is allowed" in passed.stderr


def test_a_diverged_artifact_fails_the_gate(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairedMean, "ratio", float("nan"))
    monkeypatch.setattr(Score, "not_finite", 1)
    result = run("rtn", "-o", "a", "--window", 64, "--max-tokens", 512, "--max-ppl-increase", "5%")
    assert result.exit_code == 1, result.output
    assert "a gives NaN or infinity" in result.stderr


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (("--gguf-type", "q8_0", "--export", "gguf"), "q8_0"),
        (("--bits", "8", "--group-size", "row"), "8bit"),
        (("--preset", "phone-quality"), "q4_k_m"),
    ],
)
def test_the_default_folder_is_named_by_the_recipe(
    words: tuple[str, ...], ending: str, run: Callable[..., Result]
) -> None:
    result = run("rtn", "phi3-tiny", *words, "--no-verify", "--quiet")
    assert result.exit_code == 0, result.output
    assert [path.name for path in Path().iterdir()] == [f"phi3-tiny-rtn-{ending}"]


def test_errors_that_overflow_leave_valid_json(
    run: Callable[..., Result], model: Path, prose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi3quant.run.one_block.output_distance", lambda *_given: float("inf"))
    line = ("awq", model, "--calib", prose, "--samples", 4, "--seq-len", 64, "--no-verify")
    result = run(*line, "-o", "out", "--json")
    assert result.exit_code == 0, result.output

    def refuse(name: str) -> None:
        raise AssertionError(name)

    shown = json.loads(result.stdout, parse_constant=refuse)
    kept = json.loads(Path("out/phi3quant.json").read_text(), parse_constant=refuse)
    assert kept["blocks"] == shown["blocks"]
    assert {block["output_error"] for block in kept["blocks"]} == {None}
