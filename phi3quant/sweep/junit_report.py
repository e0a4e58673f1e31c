"""Results of a sweep as JUnit XML, with a case for each job."""

from collections.abc import Iterator

from phi3quant.gating.junit import Case, junit
from phi3quant.reporting import wording
from phi3quant.sweep.results import Results
from phi3quant.units import size


def as_junit(results: Results) -> str:
    """A case for each artifact, each job without a result, and each size limit without a winner."""
    return junit("phi3quant sweep", "phi3quant.sweep", _cases(results))


def _cases(results: Results) -> Iterator[Case]:
    for row in results.rows:
        missed = [each.text for other, each in results.missed if other is row]
        increase = row.artifact.increase
        change = wording.UNKNOWN if increase is None else wording.change(1 + increase)
        kl = wording.short(row.artifact.figures.kl_mean)
        output = f"{size(row.artifact.nbytes)}, perplexity {change}, mean KL {kl}, {row.folder}"
        yield Case(
            f"{row.job.subject.title}, {row.label}",
            output,
            "failure" if missed else None,
            f"misses {', '.join(missed)}: {output}" if missed else "",
            row.outcome.seconds or 0,
        )
    for each in results.missing:
        yield Case(
            f"{each.title}, {each.label}", each.reason, "error", f"{each.status}: {each.reason}"
        )
    for winner in results.winners:
        name = f"{winner.title}, best under {size(winner.limit)}"
        if winner.row is None:
            yield Case(name, "no artifact is that small", "failure")
        else:
            yield Case(name, f"{winner.row.label} in {winner.row.folder}")
