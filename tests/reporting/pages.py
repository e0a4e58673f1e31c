"""Pages as trees of elements, and reports with hostile text."""

import dataclasses
from typing import Any

import html5lib

from phi3quant.evaluation.metrics import WorstWindow
from phi3quant.reporting.answers import Answer, AnswerRow, SampleAnswers
from phi3quant.reporting.invocation import Invocation
from phi3quant.reporting.report import Report

HOSTILE = '<script>alert(1)</script> & "q" \x1b[31m\x00 $\\alpha$ \u202egnp {{ 7 * 7 }}'


def parsed(page: str) -> Any:
    """The page's elements; raises where it isn't valid HTML."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def words(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def renamed(report: Report, name: str) -> Report:
    """The report as if its first variant and its worst window were called so."""
    first = dataclasses.replace(report.variants[0], name=name)
    row = report.measurement.rows[0]
    whole = WorstWindow(0, 2.0, f"text {name}", name)
    marked = WorstWindow(1, 2.0, f"text {name}", name, 5, 5 + len(name), name, f"{name}!")
    worst = [whole, marked]
    row = dataclasses.replace(row, name=name, worst=worst)
    answers = AnswerRow(name, name, [Answer(f"text {name}", name)])
    rows = [row, *report.measurement.rows[1:]]
    return dataclasses.replace(
        report,
        variants=[first, *report.variants[1:]],
        measurement=dataclasses.replace(report.measurement, rows=rows),
        samples=SampleAnswers([name], [answers]),
        invocation=Invocation([name], []),
    )
