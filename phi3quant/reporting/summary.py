"""The verdict: one sentence for each variant."""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3quant.reporting import wording
from phi3quant.reporting.measured import Measured
from phi3quant.reporting.report import Report
from phi3quant.reporting.stated import interval, number


@dataclass(frozen=True)
class Verdict:
    """A sentence on a variant.

    Attributes:
        name: subject of the sentence.
        text: rest of the sentence, with the punctuation that follows the name.
    """

    name: str
    text: str


def verdicts(report: Report) -> list[Verdict]:
    """Loss of quality and size of each variant; broken ones first."""
    broken = [
        Verdict(row.name, f" is broken: it gives NaN or infinity for {_tokens(count)}.")
        for row in report.measurement.rows
        if (count := number(row.figures.get("not_finite")))
    ]
    rows = [row for row in report.artifacts if not number(row.figures.get("not_finite"))]
    ranks = _ranks(report, rows)
    return broken + [
        Verdict(row.name, f": {_loss(row)}, {_size(report, row)}{ranks.get(row.variant, '')}.")
        for row in rows
    ]


def summary(report: Report) -> list[str]:
    """The verdicts as plain sentences."""
    return [verdict.name + verdict.text for verdict in verdicts(report)]


def _tokens(count: float) -> str:
    return f"{count:,.0f} token" + ("" if count == 1 else "s")


def _loss(row: Measured) -> str:
    """Change of perplexity, with its uncertainty."""
    ratio = number(row.figures.get("ratio"))
    if ratio is None:
        return "not scored"
    loss = f"{wording.change(ratio)} perplexity"
    if wording.too_few(row.windows):
        return f"{loss} (too few windows to tell)"
    ends = interval(row.figures.get("ratio_95"))
    if ends is None:
        return loss
    low, high = ends
    unclear = "; no difference shown" if low <= 1 <= high else ""
    return f"{loss} (95\N{NO-BREAK SPACE}% interval {wording.change_interval(ends)}{unclear})"


def _size(report: Report, row: Measured) -> str:
    """Size, as a share of the original's where that is known."""
    nbytes, original = _bytes(report, row), report.measurement.reference_bytes
    if not original:
        return wording.size(nbytes)
    return f"{wording.whole_share(nbytes / original)} of the size ({wording.size(nbytes)})"


def _ranks(report: Report, rows: list[Measured]) -> dict[int, str]:
    """Remarks on the closest and the smallest of several variants scored on one text."""
    rated = [row for row in rows if number(row.figures.get("ratio")) is not None]
    if len(rated) < 2 or not report.measurement.text:
        return {}
    # Rounded as in tables, so that variants that look equal there are equal here.
    ratios = [round(float(row.figures["ratio"]), 4) for row in rated]
    remarks: dict[str, Sequence[float]] = {"smallest": [_bytes(report, row) for row in rated]}
    if not any(wording.too_few(row.windows) for row in rated):
        remarks = {"closest to the original": ratios, **remarks}
    ranks: dict[int, list[str]] = {}
    for remark, values in remarks.items():
        if values.count(min(values)) == 1:
            ranks.setdefault(rated[values.index(min(values))].variant, []).append(remark)
    return {variant: f"; {' and '.join(words)}" for variant, words in ranks.items()}


def _bytes(report: Report, row: Measured) -> int:
    return report.variants[row.variant].inspection.weight_bytes
