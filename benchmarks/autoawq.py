"""AutoAWQ beside phi3quant: same model, same calibration tokens, same scoring code, one run.

AutoAWQ is no longer maintained and wants old companions, so it gets an environment of its own
under build/peers. Both tools run as separate processes with the same number of threads; their wall
time counts from start to the artifact on disk, start-up included. AutoAWQ's artifact is read by
phi3quant's reader of AWQ-GEMM folders.
"""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from calib.corpus import load_corpus, render
from phi3quant import windows
from phi3quant.cli.display import print_evaluation
from phi3quant.tokenizer import load_tokenizer
from phi3quant.verification import EvaluationText, evaluate

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "peers" / "autoawq"
# The last AutoAWQ, and the transformers of its time.
PACKAGES = ("torch==2.13.0", "transformers==4.51.3", "accelerate", "datasets", "zstandard", "tqdm")
AUTOAWQ = "autoawq==0.2.9"


@dataclass(frozen=True)
class Run:
    """One tool's wall time in seconds and peak resident memory in bytes."""

    seconds: float
    peak_bytes: int


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=Path("models/real"))
@click.option("--calib", default="general", show_default=True, help="Text to calibrate on.")
@click.option("--samples", default=64, show_default=True)
@click.option("--seq-len", default=512, show_default=True)
@click.option("--group-size", default=64, show_default=True)
@click.option("--text", default="general", show_default=True, help="Text to score on.")
@click.option("--window", default=1024, show_default=True, help="Tokens in a scored window.")
@click.option("--max-tokens", type=int, help="Score only so much of the text.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=ROOT / "build/bench")
def main(
    model: Path,
    calib: str,
    samples: int,
    seq_len: int,
    group_size: int,
    text: str,
    window: int,
    max_tokens: int | None,
    threads: int,
    output: Path,
) -> None:
    """Quantize MODEL with both tools, asymmetric 4-bit, and print times, memory and quality."""
    _make_environment()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    chosen = _write_windows(output / "windows.json", model, calib, samples, seq_len)
    click.echo(f"{chosen} windows of {seq_len} tokens, asymmetric groups of {group_size}")
    peer = _timed(
        [
            *(
                str(ENVIRONMENT / "bin" / "python"),
                str(ROOT / "benchmarks/peers/autoawq_driver.py"),
            ),
            *("--model", str(model), "--windows", str(output / "windows.json")),
            *("--group-size", str(group_size), "--output", str(output / "autoawq")),
        ],
        threads,
        output / "autoawq.log",
    )
    own = _timed(
        [
            *(sys.executable, "-m", "phi3quant", "awq", str(model), "--asym", "--no-verify"),
            *("--group-size", str(group_size), "--calib", calib, "--samples", str(samples)),
            *("--seq-len", str(seq_len), "--threads", str(threads)),
            *("-o", str(output / "phi3quant")),
        ],
        threads,
        output / "phi3quant.log",
    )
    click.echo(f"{platform.processor() or platform.machine()}, {threads} threads")
    for name, run in (("AutoAWQ", peer), ("phi3quant", own)):
        click.echo(f"{name:<10} {run.seconds:8.1f} s  {run.peak_bytes / 1e9:6.2f} GB")
    click.echo(
        f"phi3quant takes 1/{peer.seconds / own.seconds:.1f} of the time "
        f"and 1/{peer.peak_bytes / own.peak_bytes:.1f} of the memory"
    )
    names: Sequence[Path] = (model, output / "autoawq", output / "phi3quant")
    for artifact in names[1:]:
        # A tokenizer that another tool saved again differs in its bytes alone.
        shutil.copyfile(model / "tokenizer.json", artifact / "tokenizer.json")
    scored = EvaluationText(text, length=window, max_tokens=max_tokens)
    print_evaluation(evaluate(names, scored))


def _make_environment() -> None:
    done = ENVIRONMENT / ".installed"
    if done.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    install = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *PACKAGES], check=True)
    # Its declared requirements pull in CUDA kernels that a CPU has no use for.
    subprocess.run([*install, "--no-deps", AUTOAWQ], check=True)
    done.touch()


def _write_windows(path: Path, model: Path, calib: str, samples: int, length: int) -> int:
    """Write the windows that phi3quant will choose too, by the same code and seed."""
    tokenizer = load_tokenizer(model)
    ids = tokenizer.encode(render(load_corpus(calib, "calibration"), tokenizer))
    chosen = windows.sample_windows(windows.cut_windows(ids, length, calib), samples, seed=0)
    path.write_text(json.dumps(chosen.tolist()), encoding="utf-8")
    return len(chosen)


def _timed(command: list[str], threads: int, log: Path) -> Run:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    started = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise click.ClickException(f"{command[0]} failed; see {log}")
    return Run(seconds, _bytes(usage))


def _bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
