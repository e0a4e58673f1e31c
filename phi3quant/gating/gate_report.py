"""Reports of a check as JSON, JUnit XML, Markdown and GitHub annotations."""

from collections.abc import Mapping
from typing import Any

from phi3quant.evaluation.metrics import plain
from phi3quant.gating.check_report import SCHEMA_VERSION, CheckReport
from phi3quant.gating.gate import Gate, Verdict
from phi3quant.gating.junit import Case, Problem, junit
from phi3quant.version import tool_version
from phi3quant.visible import code_span, in_annotation, in_markdown

METRICS: Mapping[str, str] = {
    "perplexity": "perplexity",
    "reference_perplexity": "perplexity in full precision",
    "baseline_perplexity": "perplexity of the baseline's artifact",
    "standard_error": "standard error of the perplexity",
    "ratio": "ratio to full precision",
    "kl_mean": "mean KL",
    "baseline_kl_mean": "mean KL of the baseline's artifact",
    "kl_median": "median KL",
    "kl_p999": "99.9 % of KL",
    "kl_max": "largest KL",
    "same_top": "same top token",
    "target_rms": "RMS change of the target's probability",
    "perplexity_past_window": "perplexity past the sliding window",
    "reference_perplexity_past_window": "the same in full precision",
    "tokens": "tokens scored",
}
"""Titles of the figures in reports, in their order."""

_MARKS = {
    Verdict.PASS: "✅",
    Verdict.FAIL: "❌",
    Verdict.UNDERPOWERED: "⚠️",
    Verdict.NOT_COMPARABLE: "⚠️",
}


def as_json(report: CheckReport) -> dict[str, Any]:
    """Report as JSON values, by docs/check.schema.json."""
    return {
        "schema": SCHEMA_VERSION,
        "phi3quant": tool_version(),
        "artifact": report.artifact,
        "baseline": report.baseline,
        "verdict": report.verdict.value,
        "exit_code": report.exit_code,
        "findings": [
            {"name": finding.name, "verdict": finding.verdict.value, "message": finding.message}
            for finding in report.findings
        ],
        "gates": [_gate(gate) for gate in report.gates],
        "metrics": dict(report.metrics) if report.metrics is not None else None,
        "worst_windows": [window.as_json() for window in report.worst],
        "notes": list(report.notes),
    }


def as_junit(report: CheckReport) -> str:
    """Report as JUnit XML, with a case for each finding and each figure.

    Figures have no limits and always pass; their values are in system-out.
    """
    cases = []
    for finding in report.findings:
        kind = _JUNIT_KINDS.get(finding.verdict)
        tolerated = kind is not None and report.exit_code == 0
        cases.append(Case(finding.name, finding.message, "skipped" if tolerated else kind))
    if report.metrics is not None:
        cases += [
            Case(f"metric: {title}", f"{key} = {report.metrics.get(key)}")
            for key, title in METRICS.items()
        ]
    return junit("phi3quant check", "phi3quant.gating.check", cases)


_JUNIT_KINDS: Mapping[Verdict, Problem] = {
    Verdict.FAIL: "failure",
    Verdict.UNDERPOWERED: "error",
    Verdict.NOT_COMPARABLE: "error",
}


def as_markdown(report: CheckReport) -> str:
    """Report as a section of Markdown, for a step summary."""
    lines = [
        f"### {_MARKS[report.verdict]} phi3quant check: {report.verdict.value}",
        "",
        f"{code_span(report.artifact)} against {code_span(report.baseline)}",
        "",
        "| check | verdict | |",
        "|---|---|---|",
        *(
            f"| {finding.name} | {_MARKS[finding.verdict]} {finding.verdict.value} "
            f"| {in_markdown(finding.message)} |"
            for finding in report.findings
        ),
    ]
    if report.metrics is not None:
        lines += ["", "| metric | value |", "|---|---|"]
        lines += [
            f"| {title} | {_number(report.metrics[key])} |"
            for key, title in METRICS.items()
            if report.metrics.get(key) is not None
        ]
    if report.worst:
        lines += ["", "| worst windows | ratio | text up to just after the worst token |"]
        lines += ["|---|---|---|"]
        lines += [
            f"| {window.number} | {window.ratio:.3f} | {code_span(window.text)} |"
            for window in report.worst
        ]
    lines += ["", *(f"- {in_markdown(note)}" for note in report.notes)]
    return "\n".join(lines).rstrip() + "\n"


def annotations(report: CheckReport) -> list[str]:
    """Workflow commands that GitHub Actions shows next to a run: errors and warnings."""
    lines = []
    for finding in report.findings:
        if finding.verdict is not Verdict.PASS:
            level = "error" if report.exit_code else "warning"
            lines.append(_annotation(level, finding.name, finding.message))
    return [*lines, *(_annotation("notice", "note", note) for note in report.notes)]


def _annotation(level: str, name: str, message: str) -> str:
    return f"::{level} title=phi3quant check, {name}::{in_annotation(message)}"


def _gate(gate: Gate) -> dict[str, Any]:
    measured = gate.measured
    return {
        "name": gate.name,
        "verdict": gate.verdict.value,
        "limit": gate.limit,
        "ratio": plain(measured.ratio),
        "ratio_95": [plain(value) for value in measured.interval],
        "detectable": plain(measured.detectable),
        "windows": measured.windows,
    }


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
