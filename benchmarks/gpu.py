"""Time and device memory on a GPU, and quality next to the CPU's.

Runs on a machine without network: it draws the weights of synthetic models on the GPU itself. Each
run is a process of its own and is timed from its start to its end, loading libraries and writing
included. The model's files are in the page cache, since they have just been written.

    python -m benchmarks.gpu -o build/gpu                       all, about 7 minutes by its parts
    python -m benchmarks.gpu -o build/gpu --only tiny --only awq-64
    python -m benchmarks.gpu -o build/gpu --profile             where the time of a block goes
    python -m benchmarks.gpu -o build/gpu --only peer --peer-site site    next to llm-compressor

SITE is a folder with llm-compressor and what it needs, made by ``pip install --target``.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.machine import described
from benchmarks.synthetic import write_checkpoint
from phi3quant import evaluate
from phi3quant.progress import silent
from phi3quant.run.calibration import Calibration
from phi3quant.run.calibration_windows import calibration_windows
from phi3quant.run.shared_work import SharedWork
from phi3quant.source.locate import locate

CALIBRATED = ("--calib", "general", "--no-verify", "--overwrite")
"""The synthetic model has the bundled model's tokenizer, so it gets the longer text."""


@dataclass(frozen=True)
class Run:
    """One timed run of the command line.

    Attributes:
        title: row of the table.
        shape: synthetic model that MODEL in ``words`` stands for, and its number of layers.
        words: arguments; OUT is a folder of the run.
    """

    title: str
    shape: tuple[str, int]
    words: tuple[str, ...]


_MINI, _PART, _MEDIUM = ("mini-4k", 32), ("mini-4k", 8), ("medium-4k", 4)
_AWQ = ("awq", "MODEL", "-o", "OUT", *CALIBRATED)
_RTN = ("rtn", "MODEL", "-o", "OUT", "--no-verify", "--overwrite")

RUNS: Mapping[str, Run] = {
    "awq-64": Run("awq, 64 windows", _MINI, _AWQ),
    "awq-256": Run("awq, 256 windows", _MINI, (*_AWQ, "--samples", "256")),
    "perplexity": Run(
        "perplexity of 16,384 tokens",
        _MINI,
        ("perplexity", "MODEL", "--text", "general", "--max-tokens", "16384"),
    ),
    "rtn": Run("rtn", _MINI, _RTN),
    "rtn-cpu": Run("rtn --device cpu", _MINI, (*_RTN, "--device", "cpu")),
    "part": Run("awq, 64 windows, 8 blocks", _PART, _AWQ),
    "part-6gb": Run("the same with --max-memory 6GB", _PART, (*_AWQ, "--max-memory", "6GB")),
    "part-q4-k-m": Run(
        "the same to Q4_K_M", _PART, (*_AWQ, "--export", "gguf", "--gguf-type", "q4_k_m")
    ),
    "medium": Run("awq, 64 windows, 4 blocks of Phi-3-medium", _MEDIUM, _AWQ),
}
"""Runs by name, in order."""

PEER = "peer"
"""Name of the comparison with llm-compressor's GPTQ on four blocks."""
TINY = "tiny"
"""Name of the comparison of quality on the bundled model."""
_SEEDS = range(5)

# Runs the command line and leaves the peak of the device's memory in a file.
_INSIDE = """
import json, sys
import torch
from phi3quant.__main__ import run
peak, *sys.argv[1:] = sys.argv[1:]
try:
    run()
finally:
    if torch.cuda.is_initialized():
        stats = torch.cuda.memory_stats()
        with open(peak, "w") as out:
            json.dump(stats["reserved_bytes.all.peak"], out)
"""


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option(
    "--only",
    type=click.Choice([*RUNS, TINY, PEER]),
    multiple=True,
    help="Run only this one. Can be repeated.  [default: all]",
)
@click.option("--peer-site", type=click.Path(path_type=Path), help="Folder with llm-compressor.")
@click.option(
    "--tiny-on",
    type=click.Choice(["cpu", "cuda"]),
    multiple=True,
    default=("cpu", "cuda"),
    help="Device for the comparison of quality. Can be repeated.  [default: both]",
)
@click.option("--profile", is_flag=True, help="Profile two blocks instead.")
def main(
    output: Path,
    only: tuple[str, ...],
    peer_site: Path | None,
    tiny_on: tuple[str, ...],
    *,
    profile: bool,
) -> None:
    """Run everything and write results to the folder OUTPUT as results.json and table.md."""
    output.mkdir(parents=True, exist_ok=True)
    if profile:
        _profile(output)
        return
    names = only or (*RUNS, TINY)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    results: dict[str, Any] = {"machine": described(), "gpu": gpu}
    for name in names:
        if name == TINY:
            results[name] = _quality(output, tiny_on)
        elif name == PEER:
            results[name] = _peer(output, peer_site)
        else:
            results[name] = _measured(output, RUNS[name])
        print(name, json.dumps(results[name]), flush=True)
        (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        (output / "table.md").write_text(_table(results), encoding="utf-8")
    print(_table(results))


def _model(output: Path, shape: tuple[str, int]) -> Path:
    """Synthetic checkpoint of a shape and a number of layers, written once."""
    name, layers = shape
    folder = output / f"{name}-{layers}"
    if not (folder / "config.json").is_file():
        started = time.monotonic()
        write_checkpoint(folder, name, layers=layers, device="cuda")
        torch.cuda.empty_cache()
        print(f"wrote {folder} in {time.monotonic() - started:.0f} s", flush=True)
    return folder


def _measured(output: Path, run: Run) -> dict[str, Any]:
    names = {"MODEL": str(_model(output, run.shape)), "OUT": str(output / "out")}
    words = [names.get(word, word) for word in run.words]
    peak = output / "peak.json"
    peak.unlink(missing_ok=True)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE, str(peak), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    memory = json.loads(peak.read_text(encoding="utf-8")) if peak.is_file() else None
    failed = "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
    return {"seconds": seconds, "peak_bytes": memory, "failed": failed}


def _quality(output: Path, devices: Sequence[str]) -> dict[str, Any]:
    """Mean KL of awq on the bundled model by device, for several calibration seeds."""
    divergences: dict[str, list[float]] = {}
    for device in devices:
        for seed in _SEEDS:
            out = output / f"tiny-{device}-{seed}"
            line = ["awq", "phi3-tiny", "-o", str(out), "--no-verify", "--overwrite", "-q"]
            subprocess.run(
                [sys.executable, "-m", "phi3quant", *line, "--device", device, "--seed", str(seed)],
                check=True,
            )
            compared = evaluate(["phi3-tiny", out], progress=silent).comparisons[1]
            divergences.setdefault(device, []).append(float(compared.kl.mean()))
    means = {device: sum(values) / len(values) for device, values in divergences.items()}
    return {"kl": divergences, "mean_kl": means}


def _peer(output: Path, site: Path | None) -> dict[str, Any]:
    """Seconds of awq and of llm-compressor's GPTQ on the same blocks and windows."""
    blocks = ("mini-4k", 4)
    model, windows = _model(output, blocks), output / "windows.npy"
    opened = SharedWork().opened(locate(model))
    text = calibration_windows(opened, Calibration("general"))
    np.save(windows, text.ids.numpy())
    own = _measured(output, Run("awq", blocks, _AWQ))
    settings = {"group_size": 32, "symmetric": True, "method": "gptq", "dtype": "bfloat16"}
    arguments = {
        "model": model,
        "windows": windows,
        "artifact": output / "peer",
        "plain": output / "peer-plain",
        "threads": os.cpu_count(),
        "settings": json.dumps(settings),
    }
    line = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    path = [str(site), os.environ.get("PYTHONPATH", "")] if site else []
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.llmcompressor_driver", "quantize", *line],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)} if path else None,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    failed = "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
    return {"awq": own, "peer": {"seconds": seconds, "failed": failed}}


def _profile(output: Path) -> None:
    """Print the most expensive operations of two blocks, after one that warms up."""
    folder = _model(output, ("mini-4k", 3))
    code = f"""
import sys, torch
from torch.profiler import ProfilerActivity, profile
from phi3quant.run import one_block
from phi3quant.__main__ import run
inner, calls = one_block.quantize_block, []
import time
def timed(*arguments):
    torch.cuda.synchronize(); start = time.perf_counter()
    if len(calls) == 1:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as measured:
            result = inner(*arguments)
            torch.cuda.synchronize()
        table = measured.key_averages()
        print(table.table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60))
        print(table.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))
    else:
        result = inner(*arguments)
        torch.cuda.synchronize()
    calls.append(time.perf_counter() - start)
    print("block", calls[-1], flush=True)
    return result
one_block.quantize_block = timed
sys.argv[1:] = ["awq", {str(folder)!r}, "-o", {str(output / "out")!r}, *{CALIBRATED!r}]
run()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def _table(results: Mapping[str, Any]) -> str:
    """Results as a Markdown table."""
    lines = [f"On one {results['gpu']} ({results['machine']}):", "", "| | time | GPU memory |"]
    lines.append("|---|---|---|")
    lines += [_row(run.title, results[name]) for name, run in RUNS.items() if name in results]
    if PEER in results:
        title = "llm-compressor GPTQ, 64 windows, 4 blocks"
        lines.append(_row("awq, 64 windows, 4 blocks", results[PEER]["awq"]))
        lines.append(_row(title, {"peak_bytes": None, **results[PEER]["peer"]}))
    if TINY in results:
        means = results[TINY]["mean_kl"].items()
        shown = ", ".join(f"{device} {mean:.6f}" for device, mean in means)
        lines += ["", f"Mean KL of the bundled model over {len(_SEEDS)} seeds: {shown}"]
    return "\n".join([*lines, ""])


def _row(title: str, result: Mapping[str, Any]) -> str:
    if result["failed"]:
        return f"| {title} | failed | |"
    memory = result["peak_bytes"]
    shown = "" if memory is None else f"{memory / 1e9:.1f} GB"
    return f"| {title} | {result['seconds']:.1f} s | {shown} |"


if __name__ == "__main__":
    main()
