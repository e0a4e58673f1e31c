"""``phi3quant perplexity``."""

from typing import Any

import click

from phi3quant.cli import options
from phi3quant.cli.display import print_evaluation, progress_bars, use_threads
from phi3quant.cli.terminal import print_json
from phi3quant.evaluation.evaluate import EvaluationText, evaluate


@click.command()
@click.argument("artifact", nargs=-1)
@options.evaluation_text
@options.common
def perplexity(artifact: tuple[str, ...], **given: Any) -> None:
    """Score ARTIFACTs on text, block by block; further ones are compared with the first.

    \b
    phi3quant perplexity ./Phi-3-mini-4k-instruct
    phi3quant perplexity ./Phi-3-mini-4k-instruct ./phi3-4bit
    phi3quant perplexity ./phi3-4bit --text wiki.txt --window 1024 --json

    An ARTIFACT is a folder, plain or quantized, a .gguf file, or a hub id; left out, it is the
    bundled phi3-tiny. ONNX folders are run by onnxruntime: as they say, and at accuracy level 0.
    """
    quiet = given["quiet"]
    use_threads(given["threads"])
    evaluation = evaluate(
        artifact or [options.note_bundled(None, quiet=quiet)],
        EvaluationText(given["text"], given["text_field"], given["window"], given["max_tokens"]),
        revision=given["revision"],
        progress=progress_bars(quiet=quiet),
    )
    if given["as_json"]:
        print_json(evaluation.as_json())
    else:
        print_evaluation(evaluation)
