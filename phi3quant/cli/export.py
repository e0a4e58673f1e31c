"""``phi3quant export``."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from converters.gguf.type_policy import FILE_TYPES, file_type
from phi3quant.cli import options, values
from phi3quant.cli.evaluation_table import print_evaluation
from phi3quant.cli.help_sections import SectionedCommand
from phi3quant.cli.options import OnnxLayout, Running
from phi3quant.cli.progress import progress_bars, use_threads
from phi3quant.cli.run_cost import peak_memory_bytes, run_cost
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.terminal import echo, print_json
from phi3quant.cli.written_files import (
    note_next_steps,
    note_slow_type,
    print_files,
    weight_files,
)
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.progress import Progress
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.export import export_gguf, export_onnx
from phi3quant.run.verification import Verification
from phi3quant.source.locate import Located, locate

_Export = Callable[[Located, Path, Judge | None, Progress], Artifacts]


@dataclass(frozen=True)
class _Target:
    """The folder of an export, and how to treat it."""

    output: Path | None
    overwrite: bool
    no_verify: bool
    revision: str | None
    adapters: tuple[str, ...]


def _target(default: str) -> options.Decorator[Callable[..., None]]:
    return options.group(
        "target",
        _Target,
        click.option(
            "-o",
            "--output",
            type=values.OUTPUT,
            help=f"Folder to create.  [default: {default} in the current folder]",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace an output that phi3quant created, and drop an unfinished run.",
        ),
        click.option("--no-verify", is_flag=True, help="Don't score the result."),
        options.REVISION,
        options.ADAPTERS,
    )


@dataclass(frozen=True)
class _GgufOptions:
    """Types and parts of a GGUF file."""

    gguf_type: str | None
    tensor_types: tuple[str, ...]
    part_size: int | None


_GGUF = options.group(
    "wanted",
    _GgufOptions,
    click.option(
        "--type",
        "gguf_type",
        type=values.Name("GGUF type", FILE_TYPES),
        help=f"Type of the file: {', '.join(FILE_TYPES)}.  [default: the type that stores "
        "MODEL's codes unchanged; F16 for a checkpoint]",
    ),
    options.TENSOR_TYPES,
    click.option(
        "--split-size",
        "part_size",
        type=values.Size(),
        help="Largest size of a file, such as 2GB; the rest goes to further files.",
    ),
)


@click.group()
def export() -> None:
    """Write a model, quantized or not, in another format.

    \b
    phi3quant export gguf phi3-4bit
    phi3quant export onnx phi3-4bit
    """


@export.command(cls=SectionedCommand, short_help="Write a GGUF file for llama.cpp and its apps.")
@options.MODEL
@_GGUF
@_target("MODEL-TYPE")
@SCORED_TEXT
@options.RUNNING
def gguf(
    model: str | None,
    wanted: _GgufOptions,
    target: _Target,
    text: EvaluationText,
    running: Running,
) -> None:
    """Write MODEL as a GGUF file for llama.cpp and its apps, and score it against MODEL.

    \b
    phi3quant export gguf phi3-4bit
    phi3quant export gguf ./Phi-3-mini-4k-instruct --type q4_k_m -o out
    phi3quant export gguf ./my-finetune --type q4_0 --tensor-type ffn_down=q5_0
    phi3quant export gguf ./my-finetune --type f16 --split-size 2GB -o out

    The first example keeps the codes of a quantized folder: Q4_0 for awq's defaults.
    MODEL is a folder or a hub id; the default is the bundled phi3-tiny.
    """
    if wanted.tensor_types and not wanted.gguf_type:
        raise click.UsageError("--tensor-type requires --type.")
    kind = file_type(wanted.gguf_type, wanted.tensor_types) if wanted.gguf_type else None

    def write(model: Located, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_gguf(
            model,
            output,
            kind=kind,
            split_bytes=wanted.part_size,
            overwrite=target.overwrite,
            progress=progress,
            judge=judge,
        )

    output = _run(write, model, (wanted.gguf_type or "gguf").lower(), target, text, running)
    if not (running.quiet or running.as_json):
        note_slow_type(output)


@export.command(cls=SectionedCommand, short_help="Write an ONNX folder for onnxruntime-genai.")
@options.MODEL
@options.ONNX_LAYOUT
@_target("MODEL-onnx")
@SCORED_TEXT
@options.RUNNING
def onnx(
    model: str | None,
    layout: OnnxLayout,
    target: _Target,
    text: EvaluationText,
    running: Running,
) -> None:
    """Write MODEL as an ONNX folder for onnxruntime and onnxruntime-genai, and score it.

    \b
    phi3quant export onnx phi3-4bit
    phi3quant export onnx phi3-4bit --embedding int4 --split-size 2GB -o out
    phi3quant export onnx phi3-4bit --opset 14 -o out    for older mobile runtimes
    phi3quant export onnx ./my-finetune -o out           not quantized, to compare

    MODEL is a folder or a hub id; the default is the bundled phi3-tiny.
    """
    chosen = layout.options()

    def write(model: Located, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_onnx(
            model,
            output,
            options=chosen,
            overwrite=target.overwrite,
            progress=progress,
            judge=judge,
        )

    _run(write, model, "onnx", target, text, running)


def _run(
    write: _Export,
    model: str | None,
    kind: str,
    target: _Target,
    text: EvaluationText,
    running: Running,
) -> Path:
    """Export, score and report.

    Args:
        write: the export.
        model: as entered.
        kind: end of the folder's default name.
        target: the folder.
        text: for the verification.
        running: how to run and report.

    Returns:
        The folder.
    """
    quiet = running.quiet
    use_threads(running.threads)
    located = locate(options.model_or_bundled(model, quiet=quiet), target.revision, target.adapters)
    progress = progress_bars(quiet=quiet)
    name = located.name.split("/")[-1]
    output = target.output or Path(f"{name}-{kind}")
    judge = None if target.no_verify else Verification(text, progress)
    started = time.monotonic()
    artifacts = write(located, output, judge, progress)
    seconds = time.monotonic() - started
    evaluation = judge.evaluation if judge else None
    if running.as_json:
        print_json(
            {
                "files": [str(file) for file in weight_files(output)],
                "seconds": round(seconds, 2),
                "peak_memory_bytes": peak_memory_bytes(),
                "evaluation": evaluation.as_json() if evaluation else None,
            }
        )
        return output
    if evaluation is not None:
        print_evaluation(evaluation)
        echo()
    for title, folder in artifacts.folders.items():
        print_files(title, folder)
    echo(f"exported {run_cost(seconds, verified=evaluation is not None)}")
    if not quiet:
        note_next_steps(artifacts.folders)
    return output
