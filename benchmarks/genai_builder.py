"""Comparison with onnxruntime-genai's model builder: same model, block size and accuracy level.

Both make folders for onnxruntime-genai. It decodes with them in alternation, so that other load on
the machine affects all of them. phi3quant scores them in onnxruntime.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnxruntime_genai as genai

from phi3quant.cli.evaluation_table import print_evaluation
from phi3quant.cli.threads import use_threads
from phi3quant.evaluation.evaluate import EvaluationText, evaluate
from phi3quant.source.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "The river rose slowly in the night, and in the morning"
FOUR_BITS = ("--embedding", "int4", "--head", "int4")
"""Options for the builder's types of embedding and head; phi3quant's default is 8 bits."""


@dataclass(frozen=True)
class Made:
    """An ONNX folder, and the time and memory needed to make it."""

    folder: Path
    seconds: float
    peak_bytes: int

    @property
    def nbytes(self) -> int:
        """Size of the graph and its weights in bytes."""
        return sum(file.stat().st_size for file in self.folder.glob("model.onnx*"))


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=ROOT / "models" / "real")
@click.option("--calib", default="general", show_default=True, help="Text for AWQ.")
@click.option("--text", default="general", show_default=True, help="Text to score on.")
@click.option("--window", default=512, show_default=True, help="Tokens in a scored window.")
@click.option("--max-tokens", type=int, help="Number of tokens to score.  [default: all]")
@click.option("--tokens", default=128, show_default=True, help="Tokens to decode per turn.")
@click.option("--turns", default=9, show_default=True, help="Turns per model.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=ROOT / "build/bench-onnx")
def main(
    model: Path,
    calib: str,
    text: str,
    window: int,
    max_tokens: int | None,
    tokens: int,
    turns: int,
    threads: int,
    output: Path,
) -> None:
    """Make ONNX folders of MODEL with both tools; print sizes, times, speed and quality."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    use_threads(threads)
    made = _make(model, calib, threads, output)
    for name, each in made.items():
        click.echo(
            f"{name:<28} {each.seconds:7.1f} s  {each.peak_bytes / 1e9:5.2f} GB peak  "
            f"{each.nbytes / 1e6:8.2f} MB"
        )
    speeds = _decode(made, load_tokenizer(model).encode(PROMPT), tokens, turns, threads)
    reference = next(iter(speeds.values()))
    for name, speed in speeds.items():
        ratios = [own / other for own, other in zip(speed, reference, strict=True)]
        click.echo(
            f"{name:<28} {statistics.median(speed):7.1f} tokens/s  ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        )
    folders = [each.folder for each in made.values()]
    scored = EvaluationText(text, length=window, max_tokens=max_tokens)
    print_evaluation(evaluate([model, *folders], scored))


def _make(model: Path, calib: str, threads: int, output: Path) -> dict[str, Made]:
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model)]
    builder += ["-c", str(output / "cache"), "-p", "int4", "-e", "cpu"]
    settings = ["--extra_options", "accuracy_level=4", "block_size=32"]
    own = [sys.executable, "-m", "phi3quant"]
    common = ["--export", "onnx", "--no-verify", "--quiet", "--threads", str(threads)]
    commands = {
        "builder": [*builder, "-o", str(output / "builder"), *settings],
        "phi3quant rtn, as the builder": [*own, "rtn", str(model), *common, *FOUR_BITS],
        "phi3quant rtn": [*own, "rtn", str(model), *common],
        "phi3quant awq": [*own, "awq", str(model), *common, "--calib", calib],
    }
    made = {}
    for number, (name, command) in enumerate(commands.items()):
        folder = output / "builder" if not number else output / f"own-{number}"
        made[name] = _run(command if not number else [*command, "-o", str(folder)], folder)
    # Scoring needs all sizes, and the builder's genai_config.json has only some of them.
    shutil.copyfile(model / "config.json", output / "builder" / "config.json")
    return made


def _run(command: Sequence[str], folder: Path) -> Made:
    started = time.monotonic()
    log = folder.parent / f"{folder.name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{' '.join(command[:4])}... failed; see {log}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Made(folder, time.monotonic() - started, usage.ru_maxrss * unit)


def _decode(
    made: Mapping[str, Made], prompt: list[int], tokens: int, turns: int, threads: int
) -> dict[str, list[float]]:
    """Tokens per second of each model in each turn, without the prompt."""
    models = {name: _load(each.folder, threads) for name, each in made.items()}
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, model in models.items():
            options = genai.GeneratorParams(model)
            length = len(prompt) + tokens
            options.set_search_options(do_sample=False, min_length=length, max_length=length)
            generator = genai.Generator(model, options)
            generator.append_tokens(np.array([prompt], np.int32))
            generator.generate_next_token()
            started = time.monotonic()
            for _ in range(tokens - 1):
                generator.generate_next_token()
            if turn:  # the first turn is a warm-up
                speeds[name].append((tokens - 1) / (time.monotonic() - started))
    return speeds


def _load(folder: Path, threads: int) -> genai.Model:
    config = genai.Config(str(folder))
    config.overlay(
        f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}'
    )
    return genai.Model(config)


if __name__ == "__main__":
    main()
