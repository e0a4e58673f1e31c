"""Audits of the models in a report, in rows."""

from phi3quant.auditing.audit import Audit
from phi3quant.auditing.finding import Standing
from phi3quant.reporting.report import Report
from phi3quant.reporting.tables import Table

_NOTE = (
    "Criteria by standing. A: nothing is contradicted, and 80 % of the evidence is there; "
    "B: nothing is contradicted; C, D, F: up to a fifth, up to two fifths, or more of the criteria "
    "with evidence are contradicted."
)


def audit_table(report: Report) -> Table | None:
    """Grade and counts of each model, the original first; None if nothing was audited."""
    if not report.audits:
        return None
    headings = ["model", "grade", *(standing.value for standing in Standing)]
    return Table("Integrity", headings, [_row(each) for each in report.audits], 2, _NOTE)


def _row(audit: Audit) -> list[str]:
    counts = audit.tally
    numbers = (counts.shown, counts.partly, counts.contradicted, counts.not_shown)
    return [audit.name, counts.grade.value, *map(str, numbers)]
