"""``phi3quant export``."""

import re
import time
from pathlib import Path
from typing import Any

import click

from converters.gguf_policy import FILE_TYPES, file_type
from phi3quant.cli import options
from phi3quant.cli.display import (
    note_phones,
    peak_memory_bytes,
    print_evaluation,
    print_json,
    progress_bars,
    use_threads,
)
from phi3quant.export import export_gguf
from phi3quant.hub import locate
from phi3quant.verification import EvaluationText, verify

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class Size(click.ParamType[int]):
    """A number of bytes such as ``2G`` or ``500M`` (decimal, as llama.cpp counts)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)([KMG]?)B?", str(value).strip().upper())
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is not a size; write 2G or 500M", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


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
@click.option("--split-size", type=Size(), help="Start another file past this size, such as 2G.")
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
    quiet = given["quiet"]
    use_threads(given["threads"])
    if given["tensor_types"] and not kind:
        raise click.UsageError("--tensor-type changes a --type; give one")
    model = options.note_bundled(model, quiet=quiet)
    progress = progress_bars(quiet=quiet)
    name = locate(model, given["revision"]).name.split("/")[-1]
    output = given["output"] or Path(f"{name}-{(kind or 'gguf').lower()}")
    started = time.monotonic()
    made = export_gguf(
        model,
        output,
        kind=file_type(kind, given["tensor_types"]) if kind else None,
        split_bytes=given["split_size"],
        revision=given["revision"],
        overwrite=given["overwrite"],
        progress=progress,
    )
    seconds = time.monotonic() - started
    files = sorted(output.glob("*.gguf"))
    evaluation = None
    if not given["no_verify"]:
        text = EvaluationText(
            given["text"], given["text_field"], given["window"], given["max_tokens"]
        )
        evaluation = verify(made, text, progress=progress)
    if given["as_json"]:
        print_json(
            {
                "files": [str(file) for file in files],
                "seconds": round(seconds, 2),
                "peak_memory_bytes": peak_memory_bytes(),
                "evaluation": evaluation.as_json() if evaluation else None,
            }
        )
        return
    if evaluation is not None:
        print_evaluation(evaluation)
    note_phones(output, quiet=quiet)
    for file in files:
        click.echo(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    click.echo(f"exported in {seconds:.1f} s{'' if evaluation else '; not verified'}")
