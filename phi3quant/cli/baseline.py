"""``phi3quant baseline create``, ``update`` and ``show``."""

from dataclasses import dataclass
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.baseline_display import described, print_described, print_recorded
from phi3quant.cli.check import TEXT
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.terminal import print_json
from phi3quant.cli.threads import use_threads
from phi3quant.errors import OutputError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.gating.baseline import read_baseline
from phi3quant.gating.baselines import create_baseline, update_baseline


@click.group()
def baseline() -> None:
    """Record an artifact's predictions on a text, for "phi3quant check".

    \b
    phi3quant baseline create ./phi3-4bit -o phi3-4bit.baseline
    phi3quant baseline show phi3-4bit.baseline
    """


@dataclass(frozen=True)
class _Creation:
    """Options of creating a baseline file."""

    output: Path
    reference: str | None
    reason: str
    overwrite: bool


_CREATION = options.group(
    "creation",
    _Creation,
    click.option(
        "-o", "--output", type=values.OutputFile(), required=True, help="Baseline file to write."
    ),
    click.option(
        "--reference",
        help="The model in full precision.  [default: the one named in ARTIFACT's manifest; "
        "a checkpoint is its own reference]",
    ),
    click.option(
        "--reason", default="created", show_default=True, help="Entry for the baseline's history."
    ),
    click.option("--overwrite", is_flag=True, help="Replace an existing file."),
)


@baseline.command(short_help="Write a baseline file.")
@click.argument("artifact", required=False)
@_CREATION
@SCORED_TEXT
@options.DEVICE
@options.RUNNING
def create(
    artifact: str | None, creation: _Creation, text: EvaluationText, device: str, running: Running
) -> None:
    """Score ARTIFACT and its original and write the predictions of both to a file.

    \b
    phi3quant baseline create ./phi3-4bit -o phi3-4bit.baseline
    phi3quant baseline create model.gguf --reference ./my-finetune -o q4.baseline

    ARTIFACT is a folder (a checkpoint, quantized or ONNX) or a .gguf file; the default is the
    bundled phi3-tiny.
    """
    use_threads(running.threads)
    output = creation.output
    if output.exists() and not creation.overwrite:
        raise OutputError(
            f"{output} exists; change it with phi3quant baseline update, or pass --overwrite"
        )
    recorded = create_baseline(
        options.model_or_bundled(artifact, quiet=running.quiet),
        output,
        reference=creation.reference,
        text=text,
        reason=creation.reason,
        overwrite=creation.overwrite,
        progress=progress_bars(quiet=running.quiet),
        device=device,
    )
    print_recorded(recorded, running)


@baseline.command(short_help="Replace the artifact in a baseline.")
@click.argument("artifact")
@click.option("--baseline", "path", type=values.OUTPUT, required=True, help="File to change.")
@click.option("--reason", required=True, help="Why it changes; an entry for its history.")
@TEXT
@options.DEVICE
@options.RUNNING
def update(
    artifact: str, path: Path, reason: str, text: str | None, device: str, running: Running
) -> None:
    """Replace the artifact in a baseline with ARTIFACT, for a stated reason.

    The predictions in full precision stay, so the original model isn't needed.

    \b
    phi3quant baseline update ./phi3-4bit --baseline phi3-4bit.baseline \\
        --reason "finer search"
    """
    use_threads(running.threads)
    recorded = update_baseline(
        artifact,
        path,
        reason,
        text=text,
        progress=progress_bars(quiet=running.quiet),
        device=device,
    )
    print_recorded(recorded, running)


@baseline.command()
@click.argument("path", type=values.OUTPUT)
@options.AS_JSON
def show(path: Path, *, as_json: bool) -> None:
    """Show the contents and the history of a baseline.

    \b
    phi3quant baseline show phi3-4bit.baseline
    """
    contents = read_baseline(path)
    plain = {**described(contents), "bytes": path.stat().st_size}
    if as_json:
        print_json(plain)
        return
    print_described(contents, plain)
