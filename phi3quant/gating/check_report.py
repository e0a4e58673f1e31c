"""Report of a check: findings, gates, figures, and the exit code that follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi3quant.evaluation.metrics import WorstWindow
from phi3quant.gating.gate import Gate, Verdict

SCHEMA_VERSION = 1
"""Version of the report as JSON; docs/check.schema.json is its schema."""

_WORST_FIRST = (Verdict.FAIL, Verdict.NOT_COMPARABLE, Verdict.UNDERPOWERED)
_EXIT_CODES = {
    Verdict.PASS: 0,
    Verdict.FAIL: 1,
    Verdict.NOT_COMPARABLE: 3,
    Verdict.UNDERPOWERED: 3,
}


@dataclass(frozen=True)
class Finding:
    """Line of a report.

    Attributes:
        name: name of the check.
        verdict: result of the check.
        message: figures, or what is wrong.
    """

    name: str
    verdict: Verdict
    message: str


@dataclass(frozen=True)
class CheckReport:
    """Findings on one artifact.

    Attributes:
        artifact, baseline: paths as they were passed.
        findings: exact checks and gates, in the order of checking.
        gates: gates with their figures.
        metrics: figures compared with full precision; None if nothing could be scored.
        worst: windows that lost most against full precision.
        notes: remarks that don't affect the verdict.
        tolerant: whether an underpowered gate passes.
    """

    artifact: str
    baseline: str
    findings: Sequence[Finding]
    gates: Sequence[Gate] = ()
    metrics: Mapping[str, Any] | None = None
    worst: Sequence[WorstWindow] = ()
    notes: Sequence[str] = ()
    tolerant: bool = False

    @property
    def verdict(self) -> Verdict:
        """Worst verdict among the findings."""
        verdicts = {finding.verdict for finding in self.findings}
        return next((each for each in _WORST_FIRST if each in verdicts), Verdict.PASS)

    @property
    def exit_code(self) -> int:
        """0 if passed, 1 for a regression, 3 if not comparable or the text is too short."""
        if self.tolerant and self.verdict is Verdict.UNDERPOWERED:
            return _EXIT_CODES[Verdict.PASS]
        return _EXIT_CODES[self.verdict]
