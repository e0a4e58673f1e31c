"""What a report says in rows, the same on the page and in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3quant.reporting import wording
from phi3quant.reporting.divergence import QUANTILES
from phi3quant.reporting.error_map import ErrorMap
from phi3quant.reporting.measured import Measured
from phi3quant.reporting.report import Report


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        title: what it is a table of.
        headings: of its columns.
        rows: each as long as the headings.
        words: how many columns, from the left, are words; all others are figures.
        note: what a reader must know besides.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    note: str = ""


def variant_table(report: Report) -> Table:
    """Sizes and scores, the original first."""
    found = report.measurement
    rows = []
    if found.reference or found.reference_bytes:
        nbytes = found.reference_bytes
        rows.append(
            [
                *(found.reference_name, "the original"),
                *(wording.size(nbytes) if nbytes else wording.UNKNOWN, _reference_bits(report)),
                wording.perplexity(found.reference.get("perplexity")),
                *[""] * 4,
            ]
        )
    for number, row in enumerate(found.rows, start=1):
        variant, figures = report.variants[row.variant], row.figures
        made = ", ".join(filter(None, (variant.inspection.format, variant.method)))
        rows.append(
            [
                *(numbered(number, row), made),
                wording.size(variant.inspection.weight_bytes),
                f"{variant.inspection.bits_per_weight:.2f}",
                wording.perplexity(figures.get("perplexity")),
                wording.ratio(figures.get("ratio")),
                wording.ends(figures.get("ratio_95"), row.windows),
                wording.short(figures.get("kl_mean")),
                wording.share(figures.get("same_top")),
            ]
        )
    headings = ["variant", "made as", "size", "bits a weight", "perplexity"]
    headings += ["ratio", "95 % interval", "mean KL", "same top"]
    return Table("Quality and size", headings, rows, 2, _scored_on(report))


def numbered(number: int, row: Measured) -> str:
    """A row's name as tables and figures have it."""
    return f"{number}. {row.name}"


def _reference_bits(report: Report) -> str:
    nbytes = report.measurement.reference_bytes
    parameters = report.variants[0].inspection.parameters
    return f"{8 * nbytes / parameters:.2f}" if nbytes else wording.UNKNOWN


def _scored_on(report: Report) -> str:
    text, reference = report.measurement.text, report.measurement.reference
    if not text:
        return "These figures are of different texts, or there are none; they don't compare."
    return (
        f"{reference.get('tokens', 'unknown')} tokens of {text.get('text')} in windows of "
        f"{text.get('window_tokens')}; no BOS added."
    )


def divergence_table(report: Report) -> Table | None:
    """Divergence at some shares of the tokens; None where nothing was scored."""
    rows = [
        [numbered(number, row), *map(wording.short, row.divergence.quantiles)]
        for number, row in enumerate(report.measurement.rows, start=1)
        if row.divergence is not None
    ]
    titles = [*(f"{100 * each:g} %" for each in QUANTILES[1:-1]), "largest"]
    headings = ["variant", "median", *titles]
    note = (
        "KL(original ‖ variant) of a token's prediction in nats; so many of the tokens have less."
    )
    return Table("Divergence over the tokens", headings, rows, 1, note) if rows else None


def error_table(found: ErrorMap) -> Table:
    """Errors per layer and kind of matrix, each with its share of rounding's."""
    rows = []
    for layer, (errors, relative) in enumerate(zip(found.errors, found.relative, strict=True)):
        cells = [
            f"{wording.short(error)} ({wording.UNKNOWN if share is None else f'{share:.2f}'})"
            for error, share in zip(errors, relative, strict=True)
        ]
        kept = "rounding was kept" if layer in found.fell_back else ""
        rows.append([str(layer), *cells, kept or ", ".join(found.compensated[layer])])
    return Table(
        f"Errors in {', '.join(found.names)}",
        ["layer", *found.kinds, "compensated"],
        rows,
        1,
        "Squared error of the output per token on calibration text, in brackets over that of "
        "rounding to nearest: of a matrix before compensation; of a block in all, on held-back "
        "windows.",
    )
