"""``phi3quant compare``."""

from typing import Any

import click

from phi3quant.cli import options
from phi3quant.cli.display import print_comparison, progress_bars, use_threads
from phi3quant.cli.terminal import print_json
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.gating.comparison import compare as compare_models


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--no-score", is_flag=True, help="Only say what differs; don't run the models.")
@options.evaluation_text
@options.running
def compare(first: str, second: str, **given: Any) -> None:
    """Say what differs between two models and how much it matters; SECOND is held against FIRST.

    \b
    phi3quant compare ./Phi-3-mini-4k-instruct ./phi3-4bit
    phi3quant compare old/model-Q4_K_M.gguf new/model-Q4_K_M.gguf
    phi3quant compare ./phi3-4bit somebodys.gguf --max-tokens 4096 --json

    Each is a folder, plain, quantized or ONNX, a .gguf file, a hub id, or phi3-tiny. Weights are
    compared tensor by tensor as they are computed with (of ONNX, only a runtime reads them); then
    both are scored on the same text.

    Exit codes: 0 done, 2 bad input, 3 their tokenizers differ, so that they couldn't be scored.
    """
    use_threads(given["threads"])
    found = compare_models(
        first,
        second,
        EvaluationText(given["text"], given["text_field"], given["window"], given["max_tokens"]),
        scored=not given["no_score"],
        progress=progress_bars(quiet=given["quiet"]),
    )
    if given["as_json"]:
        print_json(found.as_json())
    else:
        print_comparison(found)
    if not found.comparable:
        raise click.exceptions.Exit(options.EXIT_NOT_COMPARABLE)
