"""``phi3quant tune``."""

import time
from dataclasses import dataclass
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.calibration_options import CUT_OPTIONS, TEXT_OPTIONS
from phi3quant.cli.evaluation_table import print_evaluation
from phi3quant.cli.help_sections import SectionedCommand
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.quality_gate import MAX_INCREASE, end_if_missed
from phi3quant.cli.run_cost import peak_memory_bytes, run_cost
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.terminal import echo, note, print_json
from phi3quant.cli.threads import use_threads
from phi3quant.cli.tuning_display import print_tuning
from phi3quant.cli.tuning_options import AMOUNT
from phi3quant.cli.written_files import note_next_steps, print_files
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.run.calibration import Calibration
from phi3quant.run.conduct import Conduct
from phi3quant.run.tune_artifact import tune_artifact
from phi3quant.run.verification import Verification
from phi3quant.source.locate import locate
from phi3quant.tuning.settings import TuningSettings


@dataclass(frozen=True)
class _Run:
    """Options of the run."""

    reference: str
    output: Path | None
    overwrite: bool
    resume: bool
    max_memory: int | None
    no_verify: bool
    max_ppl_increase: float | None
    device: str
    tune_windows: int
    tune_passes: int
    calib: tuple[str, ...]
    calib_field: str | None
    seq_len: int
    seed: int


_RUN = options.group(
    "run",
    _Run,
    click.option(
        "--reference",
        required=True,
        help="Model in full precision that QUANTIZED was made from: a folder or a hub id.",
    ),
    click.option(
        "-o",
        "--output",
        type=values.OUTPUT,
        help="Folder to create.  [default: QUANTIZED-tuned in the current folder]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an output that phi3quant created."),
    click.option("--resume", is_flag=True, help="Continue an interrupted run of the same command."),
    click.option(
        "--max-memory",
        type=values.Size(),
        help="Memory limit, such as 4GB, or on the GPU's memory if one computes.  "
        "[default: the available memory]",
    ),
    click.option("--no-verify", is_flag=True, help="Don't score the result."),
    MAX_INCREASE,
    options.DEVICE,
    *AMOUNT,
    *TEXT_OPTIONS,
    *CUT_OPTIONS,
)


@click.command(cls=SectionedCommand)
@click.argument("quantized")
@_RUN
@SCORED_TEXT
@options.RUNNING
def tune(
    quantized: str,
    run: _Run,
    text: EvaluationText,
    running: Running,
) -> None:
    """Train the scales and norms of QUANTIZED until its predictions are closer to the reference's.

    Codes stay the same, and so do format and size. Held-back windows of the text and of the bundled
    text decide how much of the change is kept.

    \b
    phi3quant tune phi3-4bit --reference ./Phi-3-mini-4k-instruct
    phi3quant tune their-awq --reference ./my-finetune --calib chats.jsonl -o out
    phi3quant tune model-Q4_K_M.gguf --reference ./my-finetune --device cuda
    phi3quant tune phi3-4bit --reference ./my-finetune --resume

    QUANTIZED is a packed folder, a .gguf file or a hub id.
    """
    quiet = running.quiet
    use_threads(running.threads)
    located = locate(quantized)
    output = run.output or Path(f"{located.name.split('/')[-1].removesuffix('.gguf')}-tuned")
    progress = progress_bars(quiet=quiet)
    judge = None if run.no_verify else Verification(text, progress, run.device)
    if run.no_verify and run.max_ppl_increase is not None:
        raise click.UsageError(
            "--max-ppl-increase needs the verification, which --no-verify leaves out."
        )
    say = note if not quiet else _silent
    started = time.monotonic()
    artifacts = tune_artifact(
        located,
        run.reference,
        output,
        TuningSettings(windows=run.tune_windows, passes=run.tune_passes, seed=run.seed),
        calibration=Calibration(run.calib, run.calib_field, length=run.seq_len, seed=run.seed),
        overwrite=run.overwrite,
        progress=progress,
        conduct=Conduct(run.resume, run.max_memory, say, judge, run.device),
    )
    seconds = time.monotonic() - started
    evaluation = judge.evaluation if judge else None
    if running.as_json:
        print_json(
            {
                "folders": {name: str(folder) for name, folder in artifacts.folders.items()},
                "tuning": dict(artifacts.tuning or {}),
                "seconds": round(seconds, 2),
                "peak_memory_bytes": peak_memory_bytes(),
                "evaluation": evaluation.as_json() if evaluation else None,
            }
        )
    else:
        if evaluation is not None:
            print_evaluation(evaluation)
            echo()
        for title, folder in artifacts.folders.items():
            print_files(title, folder)
        print_tuning(artifacts.tuning or {})
        echo(f"tuned {run_cost(seconds, verified=evaluation is not None)}")
        if not quiet:
            note_next_steps(artifacts.folders)
    if evaluation is not None:
        end_if_missed(evaluation, run.max_ppl_increase, quiet=quiet)


def _silent(_line: str) -> None:
    """Leave a note out."""
