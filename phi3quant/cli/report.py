"""``phi3quant report``."""

from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from phi3quant.cli import options, terminal
from phi3quant.cli.display import progress_bars, use_threads
from phi3quant.cli.terminal import note, print_json
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.reporting import tables, wording
from phi3quant.reporting.drawing import check_drawing
from phi3quant.reporting.memory_tables import device_table, memory_table
from phi3quant.reporting.page import check_page, write_page
from phi3quant.reporting.report import Report, make_report
from phi3quant.reporting.summary import summary
from phi3quant.visible import one_line

# Tables keep their width when piped into a file, where there is no terminal to measure.
_WIDTH = 160


@click.command()
@click.argument("run", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=options.OutputFile(),
    help="HTML page to write; a report that is there is replaced.  [default: only the terminal]",
)
@click.option(
    "--reference",
    help="The original, to score beside.  [default: the one that the manifests name, if it is "
    "here]",
)
@click.option(
    "--no-score", is_flag=True, help="Run no model; figures of quality are the manifests'."
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no report, too.")
@options.evaluation_text
@options.running
def report(run: tuple[str, ...], **given: Any) -> None:
    """Show what RUNs cost in quality, and where, in the terminal and as one HTML page.

    \b
    phi3quant report ./out -o report.html
    phi3quant report ./out-rtn ./out-awq somebodys.gguf --reference ./my-finetune -o report.html
    phi3quant report ./out --no-score --json

    A RUN is the output folder of awq, gptq or rtn, with the formats in it, a .gguf file or an ONNX
    folder. All are scored beside their original. The page holds its figures, loads nothing from
    elsewhere, and can be read on a phone, in the dark and on paper (extra: report).
    """
    quiet, output = given["quiet"], given["output"]
    if output is not None:
        check_drawing()
        check_page(output, overwrite=given["overwrite"])
    use_threads(given["threads"])
    made = make_report(
        run,
        given["reference"],
        EvaluationText(given["text"], given["text_field"], given["window"], given["max_tokens"]),
        scored=not given["no_score"],
        progress=progress_bars(quiet=quiet),
    )
    if made.measurement.unscored and not quiet and not given["no_score"]:
        note(f"note: nothing was scored: {made.measurement.unscored}")
    if given["as_json"]:
        print_json(made.as_json())
    else:
        _print(made)
    if output is not None:
        nbytes = write_page(output, made)
        if not quiet:
            note(f"{output}: {wording.size(nbytes)}")


def _print(made: Report) -> None:
    """The page's figures as tables."""
    console = terminal.console(_WIDTH)
    found = [tables.variant_table(made), tables.divergence_table(made)]
    found += map(tables.error_table, made.error_maps)
    for table in (*found, memory_table(made.outlooks), device_table(made.outlooks)):
        if table is not None:
            _print_table(console, table)
    for number, row in enumerate(made.measurement.rows, start=1):
        for window in row.worst[:1]:
            text = one_line(window.text)
            line = f"window {window.number}, ratio {wording.ratio(window.ratio)}, at ...{text}..."
            console.print(f"{tables.numbered(number, row)}: {line}")
    console.print()
    for line in summary(made):
        console.print(line)


def _print_table(console: Console, table: tables.Table) -> None:
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(table.headings):
        figure = index >= table.words
        shown.add_column(
            heading, overflow="fold", justify="right" if figure else "left", no_wrap=figure
        )
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    if table.note:
        console.print(table.note)
        console.print()
