"""``phi3quant export``."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from converters.gguf.type_policy import FILE_TYPES, file_type
from converters.onnx.options import OnnxOptions
from phi3quant.cli import options
from phi3quant.cli.display import (
    note_phones,
    peak_memory_bytes,
    print_evaluation,
    progress_bars,
    use_threads,
)
from phi3quant.cli.terminal import echo, print_json
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.progress import Progress
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.export import export_gguf, export_onnx
from phi3quant.run.verification import Verification
from phi3quant.source.locate import locate


@click.group()
def export() -> None:
    """Write a model, plain or quantized, in another format.

    \b
    phi3quant export gguf phi3-4bit
    """


@export.command()
@click.argument("model", required=False)
@click.option(
    "--type",
    "kind",
    help=f"{', '.join(FILE_TYPES)}, in any case.  [default: the one that keeps MODEL's codes; "
    "F16 for a plain checkpoint]",
)
@options.tensor_type
@click.option(
    "--split-size", type=options.Size(), help="Start another file past this size, such as 2G."
)
@click.option(
    "-o",
    "--output",
    type=options.OUTPUT_TYPE,
    help="Folder to make.  [default: MODEL-TYPE in the current folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if phi3quant made it.")
@click.option("--no-verify", is_flag=True, help="Don't score the result.")
@options.evaluation_text
@options.common
def gguf(model: str | None, kind: str | None, **given: Any) -> None:
    """Write MODEL as a GGUF file, for llama.cpp and its apps, and score it beside MODEL.

    \b
    phi3quant export gguf phi3-4bit                     the codes as they are (Q4_0 of the default)
    phi3quant export gguf ./Phi-3-mini-4k-instruct --type q4_k_m -o out
    phi3quant export gguf ./my-finetune --type q4_0 --tensor-type ffn_down=q5_0 -o out
    phi3quant export gguf ./my-finetune --type f16 --split-size 2G -o out

    MODEL is a folder or a hub id; left out, it is the bundled phi3-tiny.
    """
    if given["tensor_types"] and not kind:
        raise click.UsageError("--tensor-type changes a --type; give one")

    def make(model: str, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_gguf(
            model,
            output,
            kind=file_type(kind, given["tensor_types"]) if kind else None,
            split_bytes=given["split_size"],
            revision=given["revision"],
            overwrite=given["overwrite"],
            progress=progress,
            judge=judge,
        )

    output = _run(model, (kind or "gguf").lower(), make, "*.gguf", given)
    note_phones(output, quiet=given["quiet"] or given["as_json"])


@export.command()
@click.argument("model", required=False)
@options.onnx_layout
@click.option(
    "-o",
    "--output",
    type=options.OUTPUT_TYPE,
    help="Folder to make.  [default: MODEL-onnx in the current folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if phi3quant made it.")
@click.option("--no-verify", is_flag=True, help="Don't score the result.")
@options.evaluation_text
@options.common
def onnx(model: str | None, **given: Any) -> None:
    """Write MODEL as an ONNX folder, for onnxruntime and onnxruntime-genai, and score it.

    \b
    phi3quant export onnx phi3-4bit                     the codes as they are
    phi3quant export onnx phi3-4bit --embedding int4 --split-size 2G -o out
    phi3quant export onnx phi3-4bit --opset 14 -o out   for older mobile runtimes
    phi3quant export onnx ./my-finetune -o out          not quantized, to compare with

    MODEL is a folder or a hub id; left out, it is the bundled phi3-tiny.
    """
    layout = OnnxOptions(**options.onnx_options(given))

    def make(model: str, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_onnx(
            model,
            output,
            options=layout,
            revision=given["revision"],
            overwrite=given["overwrite"],
            progress=progress,
            judge=judge,
        )

    _run(model, "onnx", make, "model.onnx*", given)


def _run(
    model: str | None,
    ending: str,
    make: Callable[[str, Path, Judge | None, Progress], Artifacts],
    pattern: str,
    given: Mapping[str, Any],
) -> Path:
    """Export, score and report; gives the folder.

    Args:
        model: as it was given.
        ending: of the folder's name, where none was given.
        make: the export.
        pattern: of the files to name.
        given: the command's options.
    """
    quiet = given["quiet"]
    use_threads(given["threads"])
    model = options.note_bundled(model, quiet=quiet)
    progress = progress_bars(quiet=quiet)
    name = locate(model, given["revision"]).name.split("/")[-1]
    output: Path = given["output"] or Path(f"{name}-{ending}")
    text = EvaluationText(given["text"], given["text_field"], given["window"], given["max_tokens"])
    judge = None if given["no_verify"] else Verification(text, progress)
    started = time.monotonic()
    make(model, output, judge, progress)
    seconds = time.monotonic() - started
    peak = peak_memory_bytes()
    files = sorted(output.glob(pattern))
    evaluation = judge.evaluation if judge else None
    if given["as_json"]:
        print_json(
            {
                "files": [str(file) for file in files],
                "seconds": round(seconds, 2),
                "peak_memory_bytes": peak,
                "evaluation": evaluation.as_json() if evaluation else None,
            }
        )
        return output
    if evaluation is not None:
        print_evaluation(evaluation)
    for file in files:
        echo(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    echo(
        f"exported in {seconds:.1f} s, peak memory {peak / 1e9:.2f} GB"
        f"{'' if evaluation else '; not verified'}"
    )
    return output
