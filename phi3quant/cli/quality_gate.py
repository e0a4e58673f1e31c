"""The limit on perplexity of ``--max-ppl-increase``, and the exit codes of a missed one."""

import click

from phi3quant.cli import values
from phi3quant.cli.ending import EXIT_NOT_COMPARABLE
from phi3quant.cli.terminal import note
from phi3quant.evaluation.evaluate import Evaluation
from phi3quant.gating.gate import Gate, Verdict

EXIT_MISSED = 1

MAX_INCREASE = click.option(
    "--max-ppl-increase",
    type=values.Percent(),
    help='Largest allowed increase of perplexity, such as 8% or 0.08; the budget of "phi3quant '
    'check". Exit code 1 if the model is significantly worse (the 95 % interval lies above 1) by '
    "more than that, 3 if the text is too short to show it.",
)

_WORDS = {Verdict.PASS: "PASS", Verdict.FAIL: "FAIL", Verdict.UNDERPOWERED: "TOO LITTLE TEXT"}


def end_if_missed(evaluation: Evaluation, limit: float | None, *, quiet: bool) -> None:
    """End the command if an artifact is broken or misses the limit.

    Args:
        evaluation: of the source and its artifacts.
        limit: the allowed increase as a share; None: only NaN and infinity fail.
        quiet: print only what doesn't pass.

    Raises:
        click.exceptions.Exit: with 1 for a failure, 3 if the text is too short to tell.
    """
    verdicts = {Verdict.PASS}
    for name, comparison in zip(evaluation.names[1:], evaluation.comparisons[1:], strict=True):
        if comparison.candidate.not_finite:
            note(f"FAIL: {name} gives NaN or infinity")
            verdicts.add(Verdict.FAIL)
        elif limit is not None:
            gate = Gate("budget", "full precision", limit, comparison.paired)
            verdicts.add(gate.verdict)
            if gate.verdict is not Verdict.PASS or not quiet:
                note(f"{_WORDS[gate.verdict]}: {name}: {gate}")
    if Verdict.FAIL in verdicts:
        raise click.exceptions.Exit(EXIT_MISSED)
    if Verdict.UNDERPOWERED in verdicts:
        raise click.exceptions.Exit(EXIT_NOT_COMPARABLE)
