"""``phi3quant compare``."""

import click

from phi3quant.cli import options
from phi3quant.cli.check_display import print_comparison
from phi3quant.cli.ending import EXIT_NOT_COMPARABLE
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.terminal import print_json
from phi3quant.cli.threads import use_threads
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.gating.comparison import compare as compare_models
from phi3quant.source.locate import locate


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--no-score", is_flag=True, help="List the differences only; don't run the models.")
@options.ADAPTERS
@SCORED_TEXT
@options.DEVICE
@options.RUNNING
def compare(
    first: str,
    second: str,
    adapters: tuple[str, ...],
    text: EvaluationText,
    device: str,
    running: Running,
    *,
    no_score: bool,
) -> None:
    """List the differences between two models and score SECOND against FIRST.

    \b
    phi3quant compare ./Phi-3-mini-4k-instruct ./phi3-4bit
    phi3quant compare old/model-Q4_K_M.gguf new/model-Q4_K_M.gguf
    phi3quant compare ./phi3-4bit other.gguf --max-tokens 4096 --json

    Each model is a folder (a checkpoint, quantized or ONNX), a .gguf file, a hub id, or phi3-tiny.
    Dequantized weights are compared tensor by tensor, except those of ONNX folders. Then both
    models are scored on the same text.

    Exit codes: 0 done, 2 bad input, 3 not scored because the tokenizers differ.
    """
    use_threads(running.threads)
    comparison = compare_models(
        locate(first, adapters=adapters),
        second,
        text,
        scored=not no_score,
        progress=progress_bars(quiet=running.quiet),
        device=device,
    )
    if running.as_json:
        print_json(comparison.as_json())
    else:
        print_comparison(comparison)
    if not comparison.comparable:
        raise click.exceptions.Exit(EXIT_NOT_COMPARABLE)
