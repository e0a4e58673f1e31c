"""Scores of models as a table."""

import math
from collections.abc import Iterator

from phi3quant.cli.layout import print_table, print_text
from phi3quant.evaluation.evaluate import Evaluation
from phi3quant.evaluation.perplexity import Comparison
from phi3quant.reporting import wording
from phi3quant.units import count, size


def print_evaluation(evaluation: Evaluation) -> None:
    """Print models that were scored on one text as a table, the reference first."""
    headings = ["model", "size", "perplexity"]
    if len(evaluation.names) > 1:
        headings += ["ratio", "95 % interval", "mean KL", "same top"]
    print_table(headings, [row[: len(headings)] for row in _rows(evaluation)])
    text = evaluation.text
    tokens = evaluation.comparisons[0].candidate.tokens
    print_text(
        f"{count(tokens, 'token')} of {text['text']} in windows of {text['window_tokens']}; "
        "no BOS added"
    )
    for name, comparison in zip(evaluation.names, evaluation.comparisons, strict=True):
        broken = comparison.candidate.not_finite
        if broken:
            print_text(f"warning: {name} gave NaN or infinity for {count(broken, 'token')}")


def _rows(evaluation: Evaluation) -> Iterator[list[str]]:
    rows = zip(evaluation.names, evaluation.sizes, evaluation.comparisons, strict=True)
    for number, (name, nbytes, comparison) in enumerate(rows):
        compared = _compared(comparison) if number else [""] * 4
        yield [name, size(nbytes), _perplexity(comparison), *compared]


def _perplexity(comparison: Comparison) -> str:
    score = comparison.candidate
    # A single window has no standard error.
    error = "?" if math.isnan(score.standard_error) else _digits(score.standard_error, 2)
    return f"{_digits(score.perplexity, 4)} ±{error}"


def _digits(value: float, count: int) -> str:
    return f"{value:#.{count}g}".removesuffix(".")


def _compared(comparison: Comparison) -> list[str]:
    return [
        f"{comparison.ratio:.4f}",
        wording.ends(comparison.interval, comparison.paired.windows),
        f"{float(comparison.kl.mean()):.4f}",
        f"{comparison.same_top:.1%}".replace("%", " %"),
    ]
