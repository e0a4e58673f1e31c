import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.cli.values import Size
from phi3quant.estimating.devices import known_devices
from phi3quant.source.bundled import bundled_folder

MODELS = [
    *("phi-3-mini-4k", "phi-3-mini-128k", "phi-3.5-mini", "phi-3-medium-4k"),
    *("phi-3-medium-128k", "phi-4-mini", "phi3-tiny"),
]


def run(*words: Any) -> Result:
    return CliRunner().invoke(main, ["estimate", *map(str, words)])


def test_tables_tell_sizes_memory_devices_and_cost() -> None:
    result = run("phi-3-mini-4k", "--bits", 4, "--context", 4096)
    assert result.exit_code == 0, result.output
    for expected in (
        "3,821,079,552 parameters",
        "2,175,438,336",  # bytes of Q4_0's tensors
        "4.15 GB",  # needed with a cache in FP16
        "iphone-14",
        "needs an entitlement",
        "to quantize (awq)",
    ):
        assert expected in result.output


@pytest.mark.parametrize("model", MODELS)
def test_the_first_screen_fits_a_terminal_of_25_lines(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(model).output.splitlines()
    assert len(lines) <= 24  # and the prompt
    assert max(map(len, lines)) <= 80
    assert {device.name for device in known_devices()} <= set(
        re.findall(r"[a-z0-9-]{4,}", " ".join(lines))
    )


@pytest.mark.parametrize("width", [80, 60, 45])
def test_all_tables_keep_their_figures_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures(columns: int) -> set[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        output = run("phi-3-mini-4k", "--all", "--device", "iphone-14").output
        lines = [line for line in output.splitlines() if " x " not in line]
        assert columns == 200 or max(map(len, lines)) <= columns
        return set(re.findall(r"\d[\d.,()-]*\d", output))

    assert figures(width) == figures(200)


def test_named_devices_are_shown_in_a_table() -> None:
    output = run("phi-3-mini-4k", "--device", "iphone-14", "--memory", "6GB").output
    assert re.search(r"iphone-14 +needs an entitlement +3\.22 \(4\.38\) GB", output)
    assert re.search(r"6\.00 GB +fits", output)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--memory", "6GiB"), 0),
        (("--memory", "2GiB"), 3),
        (("--device", "iphone-14", "--context", 4096), 0),  # with the entitlement
        (("--device", "gpu-4gb", "--context", 4096), 3),
        (("--device", "gpu-4gb", "--context", 4096, "--kv", "q8_0"), 0),
        (("--device", "gpu-6gb", "--device", "gpu-4gb"), 3),
        ((), 0),  # nobody asked for a device
    ],
)
def test_the_exit_code_says_whether_it_fits(words: tuple[Any, ...], code: int) -> None:
    for ending in ((), ("--json",)):
        assert run("phi-3-mini-4k", *words, *ending).exit_code == code


def test_json_holds_what_tables_show() -> None:
    words = ("--memory", "6GiB", "--bandwidth", 51.2, "--context", "1024,4096", "--tensors")
    said = json.loads(run("phi-3-mini-4k", *words, "--json").stdout)
    assert said["artifact"]["bytes"] == 2_175_438_336
    assert sum(t["nbytes"] for t in said["artifact"]["tensors"]) == 2_175_438_336
    assert [(m["context"], m["kv_type"]) for m in said["memory"][:2]] == [
        (1024, "f16"),
        (1024, "q8_0"),
    ]
    (device,) = said["devices"]
    assert device["verdict"] == "fits"
    assert device["largest_context"] == 4096
    assert 15 < device["tokens_per_second_ceiling"] < 30
    assert {entry["format"] for entry in said["formats"]} == {
        *("gguf", "onnx", "compressed-tensors", "awq-gemm", "gptq", "mlx")
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("phi-3-mini-4k", "--context", 131072), "impossible"),
        (("phi-3-mini-4k", "--context", "1k"), "is not a context"),
        (("phi-3-mini-4k", "--memory", "lots"), "is not a size"),
        (("phi-3-mini-4k", "--bandwidth", 5), "--bandwidth requires --memory"),
        (("phi-3-mini-4k", "--device", "iphone14"), "did you mean iphone-14"),
        (("phi-3-mini-4k", "--gguf-type", "q9"), "there is no GGUF type"),
        (("phi-3-mini-4k", "--gguf-type", "q4_0", "--format", "onnx"), "requires --format gguf"),
        (("phi-3-mini-4k", "--bits", 3), "export gptq or mlx"),
        (("phi-3-mini-4k", "--bits", 7), "7 bits are not supported"),
        (("phi-3-mini-k4",), "did you mean phi-3-mini-4k"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[Any, ...], reason: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert reason in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "number"), [("6GiB", 6 << 30), ("3.1GB", 3_100_000_000), ("800 MiB", 800 << 20)]
)
def test_memory_is_read_in_either_unit(text: str, number: int) -> None:
    assert Size().convert(text, None, None) == number


@pytest.mark.parametrize("words", [("estimate", "phi-3-mini-4k", "--context", "4096"), ("--help",)])
def test_it_answers_at_once_for_it_loads_nothing_large(words: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom phi3quant.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "loaded = {'torch', 'onnx', 'onnxruntime', 'numba', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'{code} {loaded}' if code or loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--memory", "9" * 400),
        ("--memory", "6GiB", "--bandwidth", "inf"),
        ("--memory", "6GiB", "--bandwidth", "nan"),
        ("--context", "9" * 5000),
    ],
)
def test_numbers_without_sense_are_usage_errors(words: tuple[str, ...]) -> None:
    result = run("phi-3-mini-4k", *words)
    assert result.exit_code == 2
    assert not result.exception or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "tokenizer",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"added_tokens": [5], "model": {"vocab": {"a": 0}, "merges": [["a", "b"], 3]}}',
        '{"added_tokens": 5, "model": {"vocab": 7, "merges": 1}}',
        '{"model": {"vocab": {"\\ud800": 0}}}',
        '{"model": []}',
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_not_needed(tokenizer: str, tmp_path: Path) -> None:
    shutil.copy(bundled_folder() / "config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    assert run(tmp_path).exit_code == 0


def test_layers_beyond_reason_are_refused_before_they_are_counted(tmp_path: Path) -> None:
    raw = json.loads((bundled_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "num_hidden_layers": 16_777_215}))
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "at most 1024" in result.output


def test_heads_that_llama_cpp_does_not_compute_are_refused(tmp_path: Path) -> None:
    raw = json.loads((bundled_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "head_dim": 16}))
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "not of head_dim 16" in result.output
    assert run(tmp_path, "--format", "compressed-tensors").exit_code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--format", "mlx"), "mlx int4 sym g32 and int8 sym g32"),
        ((), "GGUF Q4_0, some Q8_0"),
        (("--format", "onnx"), "ONNX int4 sym g32 and int8 sym g32"),
        (("--profile", "iphone-mlx"), "mlx int4 asym g64 and int8 asym g64"),
    ],
)
def test_a_mixture_is_between_its_widths(words: tuple[str, ...], expected: str) -> None:
    result = run(*words, "--tensor-type", "down_proj=int8")
    assert expected in result.output

    def size(*more: Any) -> int:
        estimated = json.loads(run(*words, *more, "--json").output)
        return int(estimated["artifact"]["bytes"])

    whole = size("--tensor-type", ".=int8")
    assert size() < size("--tensor-type", "down_proj=int8") < whole
    if "--profile" not in words:
        assert whole == size("--bits", 8)


def test_types_of_matrices_are_those_of_the_gguf_type() -> None:
    words = ("--gguf-type", "q4_0", "--tensor-type")
    assert "GGUF Q4_0, some Q6_K" in run(*words, "ffn_down=q6_k").output
    refused = run(*words, "down_proj=int8")
    assert refused.exit_code == 2
    assert "'down_proj=int8' is not PATTERN=TYPE, such as ffn_down=q8_0" in refused.stderr
    refused = run("--tensor-type", "v_proj=int8")
    assert refused.exit_code == 2
    assert "write qkv_proj" in refused.stderr
