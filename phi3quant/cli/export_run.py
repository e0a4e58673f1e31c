"""Exports on the command line: shared options, the run and its report."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.evaluation_table import print_evaluation
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.run_cost import peak_memory_bytes, run_cost
from phi3quant.cli.terminal import echo, print_json
from phi3quant.cli.threads import use_threads
from phi3quant.cli.written_files import note_next_steps, print_files, weight_files
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.progress import Progress
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.verification import Verification
from phi3quant.source.locate import Located, locate

Export = Callable[[Located, Path, Judge | None, Progress], Artifacts]
"""Function of (model, output, judge, progress) that writes an export."""


@dataclass(frozen=True)
class Target:
    """The folder of an export, and how to treat it."""

    output: Path | None
    overwrite: bool
    no_verify: bool
    revision: str | None
    adapters: tuple[str, ...]
    requantize: bool = False


def target_options(default: str, *, codes: bool = True) -> options.Decorator[Callable[..., None]]:
    """Options that exports share, gathered in a ``target``.

    Args:
        default: form of the output's default name, for the help text.
        codes: whether the target stores codes, which may have to be rounded.
    """
    return options.group(
        "target",
        Target,
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
        *([options.REQUANTIZE] if codes else []),
        options.REVISION,
        options.ADAPTERS,
    )


def run_export(
    write: Export,
    model: str | None,
    kind: str,
    target: Target,
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
