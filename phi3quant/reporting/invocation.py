"""The command line that reproduces a report."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phi3quant.evaluation.evaluate import EvaluationText


@dataclass(frozen=True)
class Invocation:
    """Arguments of ``phi3quant report``.

    Attributes:
        runs: artifacts as they were given.
        options: options and their values, except the output.
    """

    runs: Sequence[str]
    options: Sequence[str]

    def command(self, output: str | Path | None = None) -> str:
        """The command, quoted for a POSIX shell.

        Args:
            output: page to write; None: only the terminal.

        Examples:
            >>> Invocation(["my out"], ["--window=256"]).command("page.html")
            "phi3quant report 'my out' --window=256 -o page.html"
        """
        page = [] if output is None else ["-o", str(output)]
        # After "--" a name that begins with a dash is not taken for an option.
        if any(run.startswith("-") for run in self.runs):
            arguments = [*self.options, *page, "--", *self.runs]
        else:
            arguments = [*self.runs, *self.options, *page]
        return shlex.join(["phi3quant", "report", *arguments])


def invocation(
    runs: Sequence[str | Path],
    reference: str | Path | None,
    text: EvaluationText,
    *,
    scored: bool,
) -> Invocation:
    """The arguments that stand for those of ``make_report``."""
    values = {
        "--reference": reference,
        "--text": text.source,
        "--text-field": text.field,
        "--window": text.length,
        "--max-tokens": text.max_tokens,
    }
    options = [
        # With "=", a value that begins with a dash stays a value.
        *(f"{option}={value}" for option, value in values.items() if value is not None),
        *([] if scored else ["--no-score"]),
    ]
    return Invocation([str(run) for run in runs], options)
