"""Results of ``phi3quant check`` and ``phi3quant compare`` as lines."""

from collections.abc import Iterable, Mapping
from typing import Any

from phi3quant.cli.layout import print_text, print_values
from phi3quant.cli.terminal import echo
from phi3quant.evaluation.metrics import WorstWindow
from phi3quant.gating.check_report import CheckReport
from phi3quant.gating.comparison import ModelComparison
from phi3quant.gating.gate_report import METRICS
from phi3quant.reporting import wording
from phi3quant.visible import one_line

# Changed tensors that are listed.
_LISTED = 8


def print_check(report: CheckReport) -> None:
    """Print a check's findings, figures, worst windows and notes; the verdict comes last."""
    verdicts = max(len(finding.verdict.value) for finding in report.findings)
    print_values(
        [
            (f"{finding.name:<16}{finding.verdict.value:<{verdicts}}", finding.message)
            for finding in report.findings
        ]
    )
    if report.metrics is not None:
        echo()
        _print_figures(report.metrics, METRICS)
    _print_worst(report.worst)
    for line in report.notes:
        print_text(f"note: {line}")
    echo(f"\n{report.verdict.value.upper()}: {report.artifact} against {report.baseline}")


def print_comparison(comparison: ModelComparison) -> None:
    """Print the differences between two models, then their scores."""
    for name, kind in zip(comparison.names, comparison.formats, strict=True):
        echo(f"{name}: {kind}")
    _print_tensors(comparison)
    for subject, lines in comparison.changes.items():
        echo(f"{subject}:")
        for line in lines:
            echo(f"  {line}")
    if comparison.figures is None:
        echo(f"\nnot scored: {comparison.unscored}")
        return
    first, second = comparison.figures
    interval = wording.ends(second["ratio_95"], (comparison.text or {}).get("windows"))
    echo(f"\nperplexity {_figure(first['perplexity'])} and {_figure(second['perplexity'])}")
    keys = ("kl_mean", "kl_median", "kl_p999", "kl_max", "same_top", "target_rms", "tokens")
    figures = [("ratio", f"{_figure(second['ratio'])} ({interval})")]
    print_values([*figures, *((METRICS[key], _figure(second[key])) for key in keys)])
    _print_worst(comparison.worst)


def _print_tensors(comparison: ModelComparison) -> None:
    changed = comparison.changed
    equal = f"{comparison.tensors - len(changed)} of {comparison.tensors} are equal"
    echo(f"\ntensors: {comparison.uncompared or equal}")
    for change in changed[:_LISTED]:
        differs = (
            "another shape" if change.relative is None else f"relative change {change.relative:.3%}"
        )
        echo(f"  {change.name}: {differs}")
    if len(changed) > _LISTED:
        echo(f"  and {len(changed) - _LISTED} more with smaller changes")


def _print_figures(figures: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    print_values(
        [
            (title, _figure(figures[key]))
            for key, title in titles.items()
            if figures.get(key) is not None
        ]
    )


def _figure(value: object) -> str:
    if value is None:
        return "not finite"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _print_worst(windows: Iterable[WorstWindow]) -> None:
    for window in windows:
        text = one_line(window.text)
        print_text(f"worst: window {window.number}, ratio {window.ratio:.3f}, at ...{text}...")
