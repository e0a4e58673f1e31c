"""Results of a sweep: artifacts with their figures, the best of them, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phi3quant.sweep.folder import SweepFolder
from phi3quant.sweep.job import Job, Subject
from phi3quant.sweep.outcome import Outcome, Scored
from phi3quant.sweep.pareto import best_under, front
from phi3quant.sweep.plan import Plan
from phi3quant.sweep.require import Requirement
from phi3quant.version import tool_version

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """An artifact of a sweep.

    Attributes:
        number: number in tables and plots, from 1.
        job: job that made it.
        outcome: outcome of the job.
        artifact: format, size and figures.
        folder: folder of the artifact.
    """

    number: int
    job: Job
    outcome: Outcome
    artifact: Scored
    folder: Path

    @property
    def label(self) -> str:
        """Recipe, with the format if the job wrote several."""
        several = len(self.outcome.artifacts) > 1
        return f"{self.job.label}: {self.artifact.format}" if several else self.job.label


@dataclass(frozen=True)
class Missing:
    """A job without a result.

    Attributes:
        title: model.
        label: recipe.
        status: ``refused``, ``failed`` or ``not run``.
        reason: reason, and where to read more.
    """

    title: str
    label: str
    status: str
    reason: str


@dataclass(frozen=True)
class ModelResults:
    """Artifacts of one model.

    Attributes:
        subject: model.
        reference: perplexity of the original; None if nothing was scored.
        windows: scored windows; None if nothing was scored.
        rows: artifacts.
        by_kl, by_increase: numbers of the rows on the front of size and mean KL, and of size and
            increase of perplexity.
    """

    subject: Subject
    reference: float | None
    windows: int | None
    rows: Sequence[Row]
    by_kl: Sequence[int]
    by_increase: Sequence[int]


@dataclass(frozen=True)
class Winner:
    """Best artifact of a model below a size.

    Attributes:
        title: model.
        limit: size in bytes.
        row: artifact with the lowest mean KL; None if none fits.
    """

    title: str
    limit: int
    row: Row | None


@dataclass(frozen=True)
class Results:
    """Results of a sweep so far.

    Attributes:
        plan: jobs.
        outcomes: outcomes by key.
        folder: folder of the sweep.
        limits: sizes in bytes to find the best artifact for.
        requirements: requirements of the winners, or of all artifacts without limits.
        news: whether the figures differ from those of the last sweep in the folder.
    """

    plan: Plan
    outcomes: Mapping[str, Outcome]
    folder: SweepFolder
    limits: Sequence[int] = ()
    requirements: Sequence[Requirement] = ()
    news: bool = True

    @cached_property
    def rows(self) -> list[Row]:
        """All artifacts that work."""
        rows: list[Row] = []
        for job in self.plan.jobs:
            outcome = self.outcomes.get(job.key)
            if outcome is None or not outcome.done:
                continue
            place = self.folder.artifact(job.key)
            rows += [
                Row(number, job, outcome, artifact, place / artifact.path)
                for number, artifact in enumerate(outcome.artifacts, len(rows) + 1)
            ]
        return rows

    @cached_property
    def models(self) -> list[ModelResults]:
        """Artifacts by model."""
        subjects = dict.fromkeys(job.subject.title for job in self.plan.jobs)
        return [self._model(title) for title in subjects]

    def _model(self, title: str) -> ModelResults:
        rows = [row for row in self.rows if row.job.subject.title == title]
        subject = next(job.subject for job in self.plan.jobs if job.subject.title == title)
        by_kl = front([(row.artifact.nbytes, row.artifact.figures.kl_mean) for row in rows])
        by_increase = front([(row.artifact.nbytes, row.artifact.increase) for row in rows])
        return ModelResults(
            subject,
            rows[0].outcome.reference if rows else None,
            rows[0].outcome.windows if rows else None,
            rows,
            [rows[index].number for index in by_kl],
            [rows[index].number for index in by_increase],
        )

    @cached_property
    def missing(self) -> list[Missing]:
        """Jobs without a result."""
        missing = [
            Missing(each.title, each.label, "refused", each.reason) for each in self.plan.refused
        ]
        for job in self.plan.jobs:
            outcome = self.outcomes.get(job.key)
            if outcome is None:
                reason = "the sweep ended before it"
                missing.append(Missing(job.subject.title, job.label, "not run", reason))
            elif not outcome.done:
                reason = f"{outcome.reason} (log: {self.folder.log(job.key)})"
                missing.append(Missing(job.subject.title, job.label, outcome.status, reason))
        return missing

    @cached_property
    def winners(self) -> list[Winner]:
        """Best artifact of each model for each size."""
        winners = []
        for model in self.models:
            for limit in self.limits:
                best = best_under([row.artifact for row in model.rows], limit)
                row = None if best is None else model.rows[best]
                winners.append(Winner(model.subject.title, limit, row))
        return winners

    @cached_property
    def missed(self) -> list[tuple[Row, Requirement]]:
        """Requirements that an artifact misses."""
        judged = self.rows
        if self.limits:
            judged = [winner.row for winner in self.winners if winner.row is not None]
        return [
            (row, requirement)
            for row in judged
            for requirement in self.requirements
            if not requirement.met(row.artifact)
        ]

    @property
    def passed(self) -> bool:
        """Whether every job has a result, a limit a winner, and every requirement is met."""
        return not (
            self.missing or self.missed or any(winner.row is None for winner in self.winners)
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        reused = [key for key, outcome in self.outcomes.items() if outcome.reused]
        return {**self.lasting_json(), "output": str(self.folder.path), "reused": reused}

    def lasting_json(self) -> dict[str, Any]:
        """Plain values that the same sweep has again."""
        return {
            "schema": SCHEMA_VERSION,
            "phi3quant": tool_version(),
            "passed": self.passed,
            "models": [_model_json(model, self.folder.path) for model in self.models],
            "missing": [asdict(each) for each in self.missing],
            "best_under": [
                {
                    "model": winner.title,
                    "bytes": winner.limit,
                    "artifact": winner.row.number if winner.row else None,
                }
                for winner in self.winners
            ],
            "missed": [
                {"artifact": row.number, "requirement": requirement.text}
                for row, requirement in self.missed
            ],
        }


def _model_json(model: ModelResults, output: Path) -> dict[str, Any]:
    return {
        "name": model.subject.title,
        "bytes": model.subject.nbytes,
        "perplexity": model.reference,
        "windows": model.windows,
        "front_kl": list(model.by_kl),
        "front_ppl_increase": list(model.by_increase),
        "artifacts": [
            {**_row_json(row), "folder": row.folder.relative_to(output).as_posix()}
            for row in model.rows
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    figures = row.artifact.figures
    return {
        "number": row.number,
        "label": row.label,
        "recipe": dict(row.job.identity["recipe"]),
        "key": row.job.key,
        "format": row.artifact.format,
        "bytes": row.artifact.nbytes,
        "bits_per_weight": row.artifact.bits_per_weight,
        "perplexity": figures.perplexity,
        "ppl_increase": row.artifact.increase,
        "ratio_95": list(figures.ratio_95),
        "kl_mean": figures.kl_mean,
        "same_top": figures.same_top,
        "seconds": row.outcome.seconds,
        "peak_memory_bytes": row.outcome.peak_bytes,
    }
