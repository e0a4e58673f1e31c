"""``phi3quant check``."""

import os
from pathlib import Path
from typing import Any

import click

from phi3quant.cli import options
from phi3quant.cli.display import print_check, progress_bars, use_threads
from phi3quant.cli.terminal import echo_command, finite, print_json
from phi3quant.disk.output import write_bytes, write_json
from phi3quant.errors import NotComparableError
from phi3quant.gating import gate_report
from phi3quant.gating.check import Limits, check
from phi3quant.gating.check_report import CheckReport, Finding
from phi3quant.gating.gate import DEFAULT_DRIFT, Verdict


@click.command("check")
@click.argument("artifact")
@click.option(
    "--baseline",
    type=options.OUTPUT_TYPE,
    required=True,
    help="File that phi3quant baseline create made.",
)
@click.option(
    "--max-ppl-increase",
    type=options.Percent(),
    help="Budget: how much perplexity may grow against full precision, such as 8% or 0.08.  "
    "[default: by bits a weight: 0.5% for 16, 1% for 8, 2% for 6, 5% for 5, 15% for 4]",
)
@click.option(
    "--max-drift",
    type=options.Percent(),
    default=DEFAULT_DRIFT,
    help="Drift: how much it may grow against the baseline's artifact, such as 0.5% or 0.005.  "
    "[default: 0.5%]",
)
@click.option(
    "--allow-underpowered",
    is_flag=True,
    help="Warn instead of exit code 3 when the text is too short to tell.",
)
@click.option("--text", help="Where the baseline's text lies, if no longer where it lay.")
@click.option("--junit", type=options.OutputFile(), help="Write JUnit XML to this file.")
@click.option("--report", type=options.OutputFile(), help="Write the JSON to this file too.")
@click.option(
    "--markdown",
    type=options.OutputFile(),
    help="Append Markdown to this file.  [default: $GITHUB_STEP_SUMMARY where that is set]",
)
@options.running
def check_command(artifact: str, **given: Any) -> None:
    """Hold ARTIFACT against a baseline, as a CI job: scored as read back from disk.

    \b
    phi3quant check ./phi3-4bit --baseline phi3-4bit.baseline
    phi3quant check model-Q4_K_M.gguf --baseline q4.baseline --max-ppl-increase 8% --junit gate.xml

    Two gates: the budget against full precision and the drift against the baseline's artifact. Each
    fails when the model is surely worse (the 95 % interval lies above 1) and the estimate is above
    the limit. Drift is measured by divergence from full precision too, which takes less text.
    Template, special tokens, stop tokens and architecture must be as they were.

    ARTIFACT is a folder, plain, quantized or ONNX, or a .gguf file.

    Exit codes: 0 passed, 1 a regression, 2 bad input, 3 not comparable or too little text to tell.
    """
    use_threads(given["threads"])
    limits = Limits(given["max_ppl_increase"], given["max_drift"], given["allow_underpowered"])
    baseline: Path = given["baseline"]
    try:
        report = check(
            artifact,
            baseline,
            limits,
            given["text"],
            progress=progress_bars(quiet=given["quiet"]),
        )
    except NotComparableError as error:
        finding = Finding("comparable", Verdict.NOT_COMPARABLE, str(error))
        report = CheckReport(artifact, str(baseline), [finding])
    _write(report, given)
    if given["as_json"]:
        print_json(gate_report.as_json(report))
    else:
        print_check(report)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # GitHub reads both streams, and stdout may be JSON.
        for line in gate_report.annotations(report):
            echo_command(line)
    raise click.exceptions.Exit(report.exit_code)


def _write(report: CheckReport, given: dict[str, Any]) -> None:
    if given["junit"]:
        write_bytes(given["junit"], gate_report.as_junit(report).encode())
    if given["report"]:
        write_json(given["report"], finite(gate_report.as_json(report)))
    summary = given["markdown"] or os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        options.append_text(Path(summary), gate_report.as_markdown(report))
