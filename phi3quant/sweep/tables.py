"""Figures of a sweep in rows, the same on the page and in the terminal."""

from collections.abc import Iterator

from phi3quant.reporting import wording
from phi3quant.reporting.tables import Table
from phi3quant.sweep.results import ModelResults, Results, Row
from phi3quant.units import count, size

_HEADINGS = (
    *("no.", "recipe", "size", "bits/weight", "perplexity", "95 % interval"),
    *("mean KL", "same top", "time", "memory"),
)
_FRONT = "*"


def artifact_table(model: ModelResults) -> Table:
    """Artifacts of a model; those on a front have a star."""
    title = f"{model.subject.title} ({size(model.subject.nbytes)}"
    if model.reference is not None:
        title += f", perplexity {wording.perplexity(model.reference)}"
    note = (
        f"{_FRONT} no other artifact is smaller and loses less, by mean KL or by perplexity. "
        "Perplexity is its change from the original; time and memory are those of the whole job."
    )
    rows = [_cells(row, model) for row in model.rows]
    return Table(f"{title})", _HEADINGS, rows, 2, note)


def _cells(row: Row, model: ModelResults) -> list[str]:
    artifact, outcome = row.artifact, row.outcome
    figures, increase = artifact.figures, artifact.increase
    star = _FRONT if row.number in {*model.by_kl, *model.by_increase} else ""
    ends = figures.ratio_95
    bounds = None if None in ends else (float(ends[0] or 0), float(ends[1] or 0))
    interval = wording.UNKNOWN if bounds is None else wording.change_interval(bounds)
    return [
        f"{row.number}{star}",
        row.label,
        wording.size(artifact.nbytes),
        f"{artifact.bits_per_weight:.2f}",
        wording.UNKNOWN if increase is None else wording.change(1 + increase),
        wording.TOO_FEW if wording.too_few(model.windows) else interval,
        wording.short(figures.kl_mean),
        wording.share(figures.same_top),
        wording.UNKNOWN if outcome.seconds is None else duration(outcome.seconds),
        wording.UNKNOWN if outcome.peak_bytes is None else wording.size(outcome.peak_bytes),
    ]


def missing_table(results: Results) -> Table | None:
    """Jobs without a result; None if there are none."""
    rows = [[each.title, each.label, each.status, each.reason] for each in results.missing]
    headings = ["model", "recipe", "status", "reason"]
    return Table("Without a result", headings, rows, 4) if rows else None


def summary(results: Results) -> Iterator[str]:
    """Winners, missed requirements and counts, a sentence each."""
    for winner in results.winners:
        below = f"{winner.title}, best under {size(winner.limit)}"
        if winner.row is None:
            yield f"{below}: no artifact is that small."
        else:
            kl = wording.short(winner.row.artifact.figures.kl_mean)
            yield (
                f"{below}: {winner.row.number}, {winner.row.label} "
                f"({size(winner.row.artifact.nbytes)}, mean KL {kl}) in {winner.row.folder}"
            )
    for row, requirement in results.missed:
        yield f"Missed: {row.number}, {row.job.subject.title}, {row.label}: {requirement.text}"
    done = len({row.job.key for row in results.rows})
    kept = sum(outcome.reused for outcome in results.outcomes.values())
    line = f"{count(done, 'job')} done"
    line += f", {kept} of them earlier" if kept else ""
    for status in ("refused", "failed", "not run"):
        number = sum(each.status == status for each in results.missing)
        line += f", {number} {status}" if number else ""
    yield f"{line}."


def duration(seconds: float) -> str:
    """Seconds, minutes or hours with two or three digits.

    Examples:
        >>> duration(9.04), duration(340), duration(9000)
        ('9.0 s', '5.7 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
