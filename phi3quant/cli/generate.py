"""``phi3quant generate``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from phi3quant.cli import options
from phi3quant.cli.layout import print_side_by_side
from phi3quant.cli.options import Running
from phi3quant.cli.terminal import echo, note, print_json, stream_text
from phi3quant.cli.threads import use_threads
from phi3quant.errors import InputError
from phi3quant.generation.generate import DEFAULT_NEW_TOKENS, Generated, TellText
from phi3quant.generation.generate import generate as generate_text
from phi3quant.generation.sampling import Sampling
from phi3quant.source.locate import Located, locate
from phi3quant.units import count


@dataclass(frozen=True)
class _Answering:
    """Options of answers, apart from the sampling."""

    raw: bool
    max_new_tokens: int | None
    revision: str | None
    adapters: tuple[str, ...]


_ANSWERING = options.group(
    "answering",
    _Answering,
    click.option("--raw", is_flag=True, help="Continue PROMPT itself, without the chat template."),
    click.option(
        "--max-new-tokens",
        type=click.IntRange(1),
        help=f"Largest number of tokens to write.  [default: {DEFAULT_NEW_TOKENS}, or fewer if the "
        "context is shorter]",
    ),
    options.REVISION,
    options.ADAPTERS,
)
_SAMPLING = options.group(
    "sampling",
    Sampling,
    click.option(
        "--temperature",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        help="Randomness of the choice; 0 always takes the most likely token.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        show_default=True,
        help="Choose among the most likely tokens that together have this probability.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Sampling seed."),
)


@click.command()
@click.argument("artifact")
@click.argument("prompt")
@click.option(
    "--compare", "reference", metavar="REFERENCE", help="Another model, to answer next to it."
)
@_ANSWERING
@_SAMPLING
@options.DEVICE
@options.RUNNING
def generate(
    artifact: str,
    prompt: str,
    reference: str | None,
    answering: _Answering,
    sampling: Sampling,
    device: str,
    running: Running,
) -> None:
    """Let ARTIFACT answer PROMPT and report its speed.

    \b
    phi3quant generate phi3-4bit "What is the capital of France?"
    phi3quant generate phi3-4bit "Write a haiku." --compare ./Phi-3-mini-4k
    phi3quant generate model.gguf "Once upon a time" --raw --temperature 0.8
    echo "Hello" | phi3quant generate out/onnx - --json

    ARTIFACT is a folder (a checkpoint, quantized or ONNX), a .gguf file, a hub id, or phi3-tiny.
    PROMPT is a text, or - for standard input.

    ONNX runs in onnxruntime, GGUF in llama.cpp if llama-cpp-python is installed. Everything else
    is computed by phi3quant in FP32. Models of up to 500 million weights are held in memory; larger
    ones are read again for every token: little memory, but seconds per token.
    """
    use_threads(running.threads)
    text = _read_stdin() if prompt == "-" else prompt
    if not text.strip():
        raise InputError("the prompt is empty; give some text")
    streams = not running.as_json and reference is None

    def run(model: Located, tell: TellText) -> Generated:
        return generate_text(
            model,
            text,
            raw=answering.raw,
            max_new_tokens=answering.max_new_tokens,
            sampling=sampling,
            tell=tell,
            device=device,
        )

    answering_model = locate(artifact, answering.revision, answering.adapters)
    answers = [run(answering_model, stream_text() if streams else lambda _text: None)]
    if reference is not None:
        answers.append(run(locate(reference, answering.revision), lambda _text: None))
    if running.as_json:
        first, *others = (answer.as_json() for answer in answers)
        print_json({**first, "reference": others[0]} if others else first)
        return
    if streams:
        echo()
    else:
        print_side_by_side([(answer.name, answer.text) for answer in answers])
    if not running.quiet:
        _note_speed(answers)


def _note_speed(answers: Sequence[Generated]) -> None:
    for answer in answers:
        note(_speed(answer))
    if len(answers) > 1:
        note(_agreement(*answers))


def _speed(answer: Generated) -> str:
    decoding = "" if answer.decode_rate is None else f", then {answer.decode_rate:.1f} tokens/s"
    end = "a stop token" if answer.stopped else "the limit of tokens"
    return (
        f"{answer.name} ({answer.format}, {answer.runtime}): "
        f"prompt of {count(answer.prompt_tokens, 'token')} at {answer.prompt_rate:.1f} tokens/s"
        f"{decoding}; {count(len(answer.ids), 'token')} written, ended by {end}"
    )


def _agreement(first: Generated, second: Generated) -> str:
    """The token from which two texts differ."""
    if (first.ids, first.stopped) == (second.ids, second.stopped):
        return "both wrote the same tokens"
    pairs = zip(first.ids, second.ids, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    if same is None:
        same = min(len(first.ids), len(second.ids))
    return f"they differ from token {same + 1} on"


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the prompt on stdin is not UTF-8: {error}") from None
