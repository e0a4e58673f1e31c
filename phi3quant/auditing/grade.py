"""Grades: contradictions among what could be judged, and the coverage of the ten criteria."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from phi3quant.auditing.finding import Finding, Standing

POINTS = {Standing.SHOWN: 2, Standing.PARTLY: 1, Standing.CONTRADICTED: 0, Standing.NOT_SHOWN: 0}
"""Points of a criterion."""

_FULL_COVERAGE = 0.8
_FEW, _SOME = 0.2, 0.4


class Grade(StrEnum):
    """Grades from best to worst."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    F = "F"

    def meets(self, required: "Grade") -> bool:
        """Whether this grade is as good as ``required`` or better."""
        order = list(Grade)
        return order.index(self) <= order.index(required)


@dataclass(frozen=True)
class Tally:
    """Criteria by standing.

    Attributes:
        shown, partly, contradicted, not_shown: numbers of criteria.
        points: sum of POINTS.
    """

    shown: int
    partly: int
    contradicted: int
    not_shown: int
    points: int

    @property
    def criteria(self) -> int:
        """Number of all criteria."""
        return self.judged + self.not_shown

    @property
    def judged(self) -> int:
        """Number of criteria with evidence."""
        return self.shown + self.partly + self.contradicted

    @property
    def coverage(self) -> float:
        """Share of the points that all criteria together can have."""
        return self.points / (POINTS[Standing.SHOWN] * self.criteria)

    @property
    def grade(self) -> Grade:
        """Grade of the model.

        Missing evidence costs the A and nothing else; contradictions are counted among the criteria
        that could be judged.
        """
        if not self.contradicted:
            return Grade.A if self.coverage >= _FULL_COVERAGE else Grade.B
        share = self.contradicted / self.judged
        return Grade.C if share <= _FEW else Grade.D if share <= _SOME else Grade.F

    def __str__(self) -> str:
        partly = f", {self.partly} partly" if self.partly else ""
        return (
            f"{self.shown} of {self.criteria} shown{partly}, "
            f"{self.contradicted or 'nothing'} contradicted"
        )


def tally(findings: Sequence[Finding]) -> Tally:
    """Count findings by standing."""
    standings = [finding.standing for finding in findings]
    return Tally(
        shown=standings.count(Standing.SHOWN),
        partly=standings.count(Standing.PARTLY),
        contradicted=standings.count(Standing.CONTRADICTED),
        not_shown=standings.count(Standing.NOT_SHOWN),
        points=sum(POINTS[standing] for standing in standings),
    )
