"""Audits as lines."""

from phi3quant.auditing.audit import Audit
from phi3quant.cli.layout import print_text, print_values
from phi3quant.cli.terminal import echo

_INDENT = "    "


def print_audit(audit: Audit) -> None:
    """Print each criterion with its evidence; the grade comes last."""
    print_values([("model", audit.name), ("format", audit.format)])
    for finding in audit.findings:
        echo()
        print_text(f"{finding.name}: {finding.standing.value}")
        for point in finding.points:
            print_text(f"  {point.line}", indent=_INDENT)
    if audit.answer is not None:
        echo()
        print_text(f"answer: {audit.answer}", indent=_INDENT)
    echo()
    print_text(headline(audit))


def headline(audit: Audit) -> str:
    """Grade and counts in one line."""
    return f"{audit.grade.value}: {audit.tally}"
