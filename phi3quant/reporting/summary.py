"""A report in a few sentences."""

from phi3quant.reporting import wording
from phi3quant.reporting.measured import Measured
from phi3quant.reporting.report import Report
from phi3quant.reporting.stated import number


def summary(report: Report) -> list[str]:
    """What to know first: which variant is broken, which the closest, which the smallest."""
    rated = {
        row.name: (value, row)
        for row in report.measurement.rows
        if (value := number(row.figures.get("ratio"))) is not None
    }
    lines = [
        f"{row.name} gives NaN or infinity for {row.figures['not_finite']} tokens: it is broken."
        for row in report.measurement.rows
        if number(row.figures.get("not_finite"))
    ]
    if not rated or not report.measurement.text:
        return lines
    _, closest = min(rated.values(), key=lambda each: each[0])
    smallest = min((row for _, row in rated.values()), key=lambda row: _bytes(report, row))
    lines.append(f"Closest to the original is {closest.name}: {_described(report, closest)}.")
    if _bytes(report, smallest) < _bytes(report, closest):
        lines.append(f"The smallest is {smallest.name}: {_described(report, smallest)}.")
    return lines


def _bytes(report: Report, row: Measured) -> int:
    return report.variants[row.variant].inspection.weight_bytes


def _described(report: Report, row: Measured) -> str:
    nbytes, original = _bytes(report, row), report.measurement.reference_bytes
    held = f", {wording.share(nbytes / original)} of the original" if original else ""
    return (
        f"{wording.size(nbytes)}{held}, perplexity {wording.ratio(row.figures['ratio'])} of full "
        f"precision's (95 % interval {wording.ends(row.figures.get('ratio_95'), row.windows)})"
    )
