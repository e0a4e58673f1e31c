"""``phi3quant evaluate``, also called ``phi3quant perplexity``."""

from dataclasses import replace

import click

from phi3quant.cli import options
from phi3quant.cli.evaluation_table import print_evaluation
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.terminal import print_json
from phi3quant.cli.threads import use_threads
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.evaluation.evaluate import evaluate as evaluate_models
from phi3quant.source.locate import locate


@click.command()
@click.argument("model", nargs=-1)
@SCORED_TEXT
@options.REVISION
@options.ADAPTERS
@options.DEVICE
@options.RUNNING
def evaluate(
    model: tuple[str, ...],
    text: EvaluationText,
    revision: str | None,
    adapters: tuple[str, ...],
    device: str,
    running: Running,
) -> None:
    """Score MODELs on a text and compare them with the first one.

    Prints perplexity and, for every model after the first, its ratio to the first with a 95 %
    confidence interval, the mean KL divergence (nats a token) and how often both predict the same
    token.

    \b
    phi3quant evaluate ./Phi-3-mini-4k-instruct
    phi3quant evaluate ./Phi-3-mini-4k-instruct ./phi3-4bit
    phi3quant evaluate ./Phi-3-mini-4k-instruct ./phi3-4bit --adapter ./my-lora
    phi3quant evaluate ./phi3-4bit --text wiki.txt --window 1024 --json

    A MODEL is a folder (a checkpoint, quantized or ONNX), a .gguf file or a hub id; the default is
    the bundled phi3-tiny. ONNX folders run in onnxruntime, at their own accuracy level and at
    level 0. "phi3quant perplexity" is another name for this command.
    """
    use_threads(running.threads)
    first, *others = model or [options.model_or_bundled(None, quiet=running.quiet)]
    # Named as it was entered, like models without adapters.
    adapted = replace(locate(first, revision, adapters), name=first) if adapters else first
    evaluation = evaluate_models(
        [adapted, *others],
        text,
        revision=revision,
        progress=progress_bars(quiet=running.quiet),
        device=device,
    )
    if running.as_json:
        print_json(evaluation.as_json())
    else:
        print_evaluation(evaluation)
