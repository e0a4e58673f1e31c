"""``phi3quant check``."""

import os
from dataclasses import dataclass
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.check_display import print_check
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.terminal import echo_command, finite, print_json
from phi3quant.cli.threads import use_threads
from phi3quant.disk.output import clear_os_errors, write_bytes, write_json
from phi3quant.errors import NotComparableError
from phi3quant.gating import gate_report
from phi3quant.gating.check import Limits, check
from phi3quant.gating.check_report import CheckReport, Finding
from phi3quant.gating.gate import DEFAULT_DRIFT, Verdict


@dataclass(frozen=True)
class _Files:
    """Files that receive the result."""

    junit: Path | None
    report: Path | None
    markdown: Path | None


_LIMITS = options.group(
    "limits",
    Limits,
    click.option(
        "--max-ppl-increase",
        "budget",
        type=values.Percent(),
        help="Budget: largest allowed increase of perplexity over full precision, such as 8% or "
        "0.08.  [default: by bits a weight: 0.5% for 16, 1% for 8, 2% for 6, 5% for 5, 15% for 4]",
    ),
    click.option(
        "--max-drift",
        "drift",
        type=values.Percent(),
        default=DEFAULT_DRIFT,
        help="Drift: largest allowed increase over the artifact in the baseline, such as 0.5% or "
        "0.005.  [default: 0.5%]",
    ),
    click.option(
        "--allow-underpowered",
        is_flag=True,
        help="Warn, instead of exit code 3, if the text is too short to show such an increase.",
    ),
)
_FILES = options.group(
    "files",
    _Files,
    click.option("--junit", type=values.OutputFile(), help="JUnit XML file to write."),
    click.option("--report", type=values.OutputFile(), help="JSON file to write."),
    click.option(
        "--markdown",
        type=values.OutputFile(),
        help="Markdown file to append to.  [default: $GITHUB_STEP_SUMMARY if it is set]",
    ),
)
TEXT = click.option(
    "--text", help="The baseline's text, if it is no longer where it was.  [default: as recorded]"
)


@click.command("check")
@click.argument("artifact")
@click.option(
    "--baseline",
    type=values.OUTPUT,
    required=True,
    help='Baseline file, from "phi3quant baseline create".',
)
@_LIMITS
@TEXT
@_FILES
@options.DEVICE
@options.RUNNING
def check_command(
    artifact: str,
    baseline: Path,
    limits: Limits,
    text: str | None,
    files: _Files,
    device: str,
    running: Running,
) -> None:
    """Check ARTIFACT against a baseline, for example in a CI job.

    \b
    phi3quant check ./phi3-4bit --baseline phi3-4bit.baseline
    phi3quant check model-Q4_K_M.gguf --baseline q4.baseline --junit gate.xml
    phi3quant check ./phi3-4bit --baseline my.baseline --max-ppl-increase 8%

    The artifact is read back from disk and scored. Its perplexity is compared twice: with full
    precision (the budget) and with the baseline's artifact (the drift). A gate fails if the model
    is significantly worse (the 95 % interval of the ratio lies above 1) and the increase exceeds
    the limit. Drift is also measured by divergence from full precision, which needs less text. Chat
    template, special tokens, stop tokens and architecture must not have changed.

    ARTIFACT is a folder (a checkpoint, quantized or ONNX) or a .gguf file.

    Exit codes: 0 passed, 1 regression, 2 bad input, 3 not comparable or too little text.
    """
    use_threads(running.threads)
    try:
        report = check(
            artifact,
            baseline,
            limits,
            text,
            progress=progress_bars(quiet=running.quiet),
            device=device,
        )
    except NotComparableError as error:
        finding = Finding("comparable", Verdict.NOT_COMPARABLE, str(error))
        report = CheckReport(artifact, str(baseline), [finding])
    _write(report, files)
    if running.as_json:
        print_json(gate_report.as_json(report))
    else:
        print_check(report)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # GitHub reads both streams, and stdout may be JSON.
        for line in gate_report.annotations(report):
            echo_command(line)
    raise click.exceptions.Exit(report.exit_code)


def _write(report: CheckReport, files: _Files) -> None:
    if files.junit:
        write_bytes(files.junit, gate_report.as_junit(report).encode())
    if files.report:
        write_json(files.report, finite(gate_report.as_json(report)))
    summary = files.markdown or os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        _append(Path(summary), gate_report.as_markdown(report))


def _append(path: Path, text: str) -> None:
    """Append to a file that others write to as well, such as GitHub's step summary."""
    with clear_os_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text)
