"""``phi3quant generate``."""

import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.columns import Columns
from rich.panel import Panel

from phi3quant.cli import options, terminal
from phi3quant.cli.display import use_threads
from phi3quant.cli.terminal import echo, note, print_json, stream_text
from phi3quant.errors import InputError
from phi3quant.generation.generate import DEFAULT_NEW_TOKENS, Generated, TellText
from phi3quant.generation.generate import generate as generate_text
from phi3quant.generation.sampling import Sampling

_WIDTH = 110


@click.command()
@click.argument("artifact")
@click.argument("prompt")
@click.option("--compare", "reference", metavar="REFERENCE", help="Another model, side by side.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the chat template.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help=f"Write at most so many.  [default: {DEFAULT_NEW_TOKENS}, or what the context has room "
    "for]",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="0 always takes the best token.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw among the best tokens that have so much probability together.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@options.common
def generate(artifact: str, prompt: str, **given: Any) -> None:
    """Let ARTIFACT answer PROMPT, and say how fast; PROMPT - is read from stdin.

    \b
    phi3quant generate phi3-4bit "What is the capital of France?"
    phi3quant generate phi3-4bit "Write a haiku." --compare ./Phi-3-mini-4k-instruct
    phi3quant generate model-Q4_K_M.gguf "Once upon a time" --raw --temperature 0.8 --top-p 0.9
    echo "Hello" | phi3quant generate out/onnx - --json

    ARTIFACT is a folder, plain, quantized or ONNX, a .gguf file, a hub id, or phi3-tiny. ONNX runs
    in onnxruntime, GGUF in llama.cpp where llama-cpp-python is installed. All else is computed
    here in FP32: up to 500 million weights in memory, more than that read for every token, which
    takes little memory and seconds a token.
    """
    use_threads(given["threads"])
    text = _read_stdin() if prompt == "-" else prompt
    if not text.strip():
        raise InputError("the prompt is empty; give some text")
    sampling = Sampling(given["temperature"], given["top_p"], given["seed"])
    streams = not given["as_json"] and given["reference"] is None

    def run(model: str, tell: TellText) -> Generated:
        return generate_text(
            model,
            text,
            raw=given["raw"],
            max_new_tokens=given["max_new_tokens"],
            sampling=sampling,
            revision=given["revision"],
            tell=tell,
        )

    made = run(artifact, stream_text() if streams else lambda _text: None)
    models = [made]
    if given["reference"] is not None:
        models.append(run(given["reference"], lambda _text: None))
    _show(models, given, streamed=streams)


def _show(models: list[Generated], given: Mapping[str, Any], *, streamed: bool) -> None:
    if given["as_json"]:
        first, *others = (model.as_json() for model in models)
        print_json({**first, "reference": others[0]} if others else first)
        return
    if streamed:
        echo()
    else:
        _print_side_by_side(models)
    if given["quiet"]:
        return
    for model in models:
        note(_speed(model))
    if len(models) > 1:
        note(_agreement(*models))


def _print_side_by_side(models: list[Generated]) -> None:
    console = terminal.console(_WIDTH)
    width = console.width // len(models) - 1
    texts = [(terminal.plain(model.name), terminal.plain(model.text)) for model in models]
    panels = [Panel(text, title=name, width=width) for name, text in texts]
    console.print(Columns(panels))


def _speed(model: Generated) -> str:
    decoding = "" if model.decode_rate is None else f", then {model.decode_rate:.1f} tokens/s"
    end = "a stop token" if model.stopped else "the limit of tokens"
    return (
        f"{model.name} ({model.format}, {model.runtime}): prompt of {model.prompt_tokens} tokens "
        f"at {model.prompt_rate:.1f} tokens/s{decoding}; {len(model.ids)} written, ended by {end}"
    )


def _agreement(first: Generated, second: Generated) -> str:
    """Where two texts part, in tokens."""
    if (first.ids, first.stopped) == (second.ids, second.stopped):
        return "both wrote the same tokens"
    pairs = zip(first.ids, second.ids, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    if same is None:
        same = min(len(first.ids), len(second.ids))
    return f"the first {same} tokens are the same"


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the prompt on stdin is not UTF-8: {error}") from None
