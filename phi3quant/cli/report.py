"""``phi3quant report``."""

from dataclasses import dataclass
from pathlib import Path

import click

from phi3quant.cli import options, values
from phi3quant.cli.layout import print_table, print_text
from phi3quant.cli.options import Running
from phi3quant.cli.progress import progress_bars
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.terminal import echo, note, print_json, width
from phi3quant.cli.threads import use_threads
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.reporting import tables, wording
from phi3quant.reporting.audit_table import audit_table
from phi3quant.reporting.drawing import check_drawing
from phi3quant.reporting.memory_tables import device_table, memory_table
from phi3quant.reporting.page import check_page, write_page
from phi3quant.reporting.report import Report, make_report
from phi3quant.reporting.summary import summary
from phi3quant.units import size
from phi3quant.visible import one_line

# Of tables in files and pipes, which have no width: error maps are wide.
_WIDTH = 160


@dataclass(frozen=True)
class _Page:
    """Contents of a report and its place."""

    output: Path | None
    reference: str | None
    no_score: bool
    overwrite: bool


_PAGE = options.group(
    "page",
    _Page,
    click.option(
        "-o",
        "--output",
        type=values.OutputFile(),
        help="HTML page to write; an earlier report there is replaced.  [default: none, only the "
        "terminal]",
    ),
    click.option(
        "--reference",
        help="The original model.  [default: the one named in the manifests, if it is here]",
    ),
    click.option(
        "--no-score",
        is_flag=True,
        help="Don't run the models; show the quality figures of the manifests.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a file that isn't a report."),
)


@click.command()
@click.argument("run", nargs=-1, required=True)
@_PAGE
@SCORED_TEXT
@options.DEVICE
@options.RUNNING
def report(
    run: tuple[str, ...], page: _Page, text: EvaluationText, device: str, running: Running
) -> None:
    """Show the quality and the size of RUNs, in the terminal and as one HTML page.

    \b
    phi3quant report ./out -o report.html
    phi3quant report ./out-rtn ./out-awq other.gguf --reference ./my-finetune
    phi3quant report ./out --no-score --json

    A RUN is an output folder of awq, gptq or rtn with all its formats, a .gguf file or an ONNX
    folder. Each is scored against its original. The page is one file with all its figures, for
    phones, dark mode and paper. The page needs the extra "report": pip install "phi3quant[report]".
    """
    if page.output is not None:
        check_drawing()
        check_page(page.output, overwrite=page.overwrite)
    use_threads(running.threads)
    results = make_report(
        run,
        page.reference,
        text,
        scored=not page.no_score,
        progress=progress_bars(quiet=running.quiet),
        device=device,
    )
    if results.measurement.unscored and not running.quiet and not page.no_score:
        note(f"note: nothing was scored: {results.measurement.unscored}")
    if running.as_json:
        print_json(results.as_json())
    else:
        _print(results)
    if page.output is not None:
        nbytes = write_page(page.output, results)
        if not running.quiet:
            note(f"{page.output}: {size(nbytes)}; open it in a browser")


def _print(results: Report) -> None:
    """The page's figures as tables."""
    room = width(_WIDTH)
    shown = [tables.variant_table(results), tables.divergence_table(results)]
    shown += map(tables.error_table, results.error_maps)
    shown += [memory_table(results.outlooks), device_table(results.outlooks)]
    for table in (*shown, audit_table(results)):
        if table is not None:
            echo(table.title)
            print_table(table.headings, table.rows, words=table.words, width=room)
            print_text(table.note, width=room)
            echo()
    for number, row in enumerate(results.measurement.rows, start=1):
        for window in row.worst[:1]:
            worst = f"window {window.number}, ratio {wording.ratio(window.ratio)}"
            name = tables.numbered(number, row)
            print_text(f"{name}: {worst}, at ...{one_line(window.text)}...", width=room)
    echo()
    for line in summary(results):
        print_text(line, width=room)
