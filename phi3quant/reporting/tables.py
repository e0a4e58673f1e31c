"""A report's figures in rows, the same on the page and in the terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from phi3quant.evaluation.paired_statistics import FEW_WINDOWS
from phi3quant.reporting import wording
from phi3quant.reporting.divergence import QUANTILES
from phi3quant.reporting.error_map import ErrorMap
from phi3quant.reporting.measured import Measured
from phi3quant.reporting.report import Report
from phi3quant.reporting.stated import number


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        title: subject.
        headings: of the columns.
        rows: each as long as the headings.
        words: number of columns, from the left, that are words; all others are figures.
        note: remark below the table; may be empty.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    note: str = ""


def variant_table(report: Report, rows: Sequence[Measured] | None = None) -> Table:
    """Sizes and scores, the original first.

    Args:
        report: with the variants of the rows.
        rows: scores to show; None: each way of running each variant.
    """
    measurement = report.measurement
    cells = []
    if measurement.reference or measurement.reference_bytes:
        nbytes = measurement.reference_bytes
        cells.append(
            [
                *(measurement.reference_name, "the original"),
                *(wording.size(nbytes) if nbytes else wording.UNKNOWN, _reference_bits(report)),
                wording.perplexity(measurement.reference.get("perplexity")),
                *[""] * 4,
            ]
        )
    for row in measurement.rows if rows is None else rows:
        variant = report.variants[row.variant]
        cells.append(
            [
                row.name,
                ", ".join(filter(None, (variant.inspection.format, variant.method))),
                wording.size(variant.inspection.weight_bytes),
                f"{variant.inspection.bits_per_weight:.2f}",
                *_scores(row),
            ]
        )
    headings = ["variant", "format and method", "size", "bits per weight", *_SCORES]
    return Table("Quality and size", headings, cells, 2, _scored_on(report))


def ways_table(report: Report) -> Table | None:
    """Scores of the variants that can be run in several ways; None if there are none."""
    counts = Counter(row.variant for row in report.measurement.rows)
    rows = [[row.name, *_scores(row)] for row in report.measurement.rows if counts[row.variant] > 1]
    note = (
        "Each is one file. At accuracy level 4 onnxruntime rounds the activations to 8 bits; at "
        "level 0 it keeps them. The level recorded in the file comes first; the other tables and "
        "the figures use it."
    )
    return Table("Ways of running", ["variant", *_SCORES], rows, 1, note) if rows else None


_SCORES = ["perplexity", "ratio", "95 % interval", "mean KL", "same top"]


def _scores(row: Measured) -> list[str]:
    figures = row.figures
    return [
        wording.perplexity(figures.get("perplexity")),
        wording.ratio(figures.get("ratio")),
        wording.ends(figures.get("ratio_95"), row.windows),
        wording.short(figures.get("kl_mean")),
        wording.share(figures.get("same_top")),
    ]


def numbered(position: int, row: Measured) -> str:
    """A row's name with its position, for lists."""
    return f"{position}. {row.name}"


def _reference_bits(report: Report) -> str:
    nbytes = report.measurement.reference_bytes
    parameters = report.variants[0].inspection.parameters
    return f"{8 * nbytes / parameters:.2f}" if nbytes else wording.UNKNOWN


def _scored_on(report: Report) -> str:
    text, reference = report.measurement.text, report.measurement.reference
    if not text:
        return "The variants weren't scored on one text, so their figures don't compare."
    tokens, windows = number(reference.get("tokens")), number(text.get("windows"))
    count = "Unknown number of" if tokens is None else f"{tokens:,.0f}"
    cut = f" in windows of {text.get('window_tokens')}"
    note = f"{count} tokens of {text.get('text')}{cut}; no BOS added."
    if wording.too_few(windows):
        note += f" An interval needs at least {FEW_WINDOWS} windows; this text has {windows:.0f}."
    return note


def divergence_table(report: Report, rows: Sequence[Measured] | None = None) -> Table | None:
    """Quantiles of the divergence over tokens; None if nothing was scored.

    Args:
        report: with the variants of the rows.
        rows: scores to show; None: each way of running each variant.
    """
    cells = [
        [row.name, *map(wording.short, row.divergence.quantiles)]
        for row in (report.measurement.rows if rows is None else rows)
        if row.divergence is not None
    ]
    titles = [*(f"{100 * each:g} %" for each in QUANTILES[1:-1]), "largest"]
    headings = ["variant", "median", *titles]
    note = (
        "KL(original ‖ variant) of a token's prediction, in nats. The column 99 % has the value "
        "that 99 % of the tokens stay below."
    )
    return Table("Divergence over the tokens", headings, cells, 1, note) if cells else None


def error_table(errors: ErrorMap) -> Table:
    """Errors per layer and matrix, each with its ratio to that of rounding to nearest."""
    rows = []
    for layer, (values, relative) in enumerate(zip(errors.errors, errors.relative, strict=True)):
        cells = [
            f"{wording.short(value)} ({wording.UNKNOWN if share is None else f'{share:.2f}'})"
            for value, share in zip(values, relative, strict=True)
        ]
        kept = "RTN was kept" if layer in errors.fell_back else ""
        rows.append([str(layer), *cells, kept or ", ".join(errors.compensated[layer])])
    return Table(
        f"Errors in {', '.join(errors.names)}",
        ["layer", *errors.kinds, "compensated"],
        rows,
        1,
        "Matrices: squared error of the output per token, on calibration text, before "
        "compensation. Block: mean squared error of its output, on held-back windows. In brackets: "
        "the ratio to rounding to nearest (RTN).",
    )
