"""What a person sees: progress bars on stderr, tables on stdout."""

import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from tqdm import tqdm

from converters import open_model
from converters.gguf.type_policy import phone_note
from phi3quant.cli import terminal
from phi3quant.cli.terminal import echo, note
from phi3quant.evaluation.evaluate import Evaluation
from phi3quant.evaluation.metrics import WorstWindow
from phi3quant.gating.check_report import CheckReport
from phi3quant.gating.comparison import ModelComparison
from phi3quant.gating.gate_report import METRICS
from phi3quant.progress import Progress, Step, silent
from phi3quant.reporting import wording
from phi3quant.visible import one_line

# Of progress where no terminal shows a bar: enough to see that a job in CI is alive.
_SECONDS_BETWEEN_LINES = 60
# Tables keep their width when piped into a file, where there is no terminal to measure.
_WIDTH = 110


def use_threads(threads: int | None) -> None:
    """Limit the threads of all matrix products."""
    if threads is not None:
        torch.set_num_threads(threads)


def progress_bars(*, quiet: bool) -> Progress:
    """Where work is and when it ends, on stderr: bars in a terminal, lines in a log."""
    if quiet:
        return silent
    return _bar if _columns() else _lines


def _columns() -> int:
    """Of the terminal that stderr is; 0 for a log, and where a job in CI has one without a size."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 0


@contextmanager
def _bar(title: str, total: int) -> Iterator[Step]:
    with tqdm(
        total=total, desc=one_line(title), file=sys.stderr, unit="step", dynamic_ncols=True
    ) as bar:

        def step(done: int = 1, note: str = "") -> None:
            if note:
                bar.set_postfix_str(one_line(note), refresh=False)
            bar.update(done)

        yield step


@contextmanager
def _lines(title: str, total: int) -> Iterator[Step]:
    begun = said = time.monotonic()
    finished = 0

    def step(done: int = 1, note: str = "") -> None:
        nonlocal said, finished
        finished += done
        now = time.monotonic()
        # What ends soon says nothing at all.
        if now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            form = "{desc}: {n_fmt} of {total_fmt} in {elapsed}, {remaining} left"
            line = tqdm.format_meter(finished, total, now - begun, prefix=title, bar_format=form)
            terminal.note(", ".join(filter(None, (line, note))))

    yield step


def print_evaluation(evaluation: Evaluation) -> None:
    """Print models scored on one text as a table, the reference first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    headings = ["size MB", "perplexity", "±"]
    if len(evaluation.names) > 1:
        headings += ["ratio", "95 % interval", "mean KL", "same top"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    rows = zip(evaluation.names, evaluation.sizes, evaluation.comparisons, strict=True)
    for number, (name, size, comparison) in enumerate(rows):
        own = comparison.candidate
        cells = [f"{size / 1e6:.2f}", f"{own.perplexity:.4g}", _error(own.standard_error)]
        if number:
            cells += [
                f"{comparison.ratio:.4f}",
                wording.ends(comparison.interval, comparison.paired.windows),
                f"{float(comparison.kl.mean()):.4f}",
                f"{comparison.same_top:.1%}",
            ]
        table.add_row(name, *cells)
    text = evaluation.text
    console = terminal.console(_WIDTH)
    console.print(table)
    tokens = evaluation.comparisons[0].candidate.tokens
    console.print(
        f"{tokens} tokens of {text['text']} in windows of {text['window_tokens']}; no BOS added"
    )
    for name, comparison in zip(evaluation.names, evaluation.comparisons, strict=True):
        if comparison.candidate.not_finite:
            console.print(
                f"warning: {name} gave NaN or infinity for {comparison.candidate.not_finite} tokens"
            )


def _error(value: float) -> str:
    """A standard error; of a single window nothing is known."""
    return "?" if math.isnan(value) else f"{value:.2g}"


def print_check(report: CheckReport) -> None:
    """Print a check's findings, figures, worst windows and notes; the verdict comes last."""
    width = max(len(finding.name) for finding in report.findings) + 2
    for finding in report.findings:
        echo(f"{finding.name:<{width}}{finding.verdict.value:<16}{finding.message}")
    if report.metrics is not None:
        echo()
        for key, title in METRICS.items():
            value = report.metrics.get(key)
            if value is not None:
                echo(f"{title:<40}{_shown(value)}")
    _print_worst(report.worst)
    for line in report.notes:
        echo(f"note: {line}")
    echo(f"\n{report.verdict.value.upper()}: {report.artifact} beside {report.baseline}")


# Lines of changed tensors, and characters of a line, that a person is shown.
_SHOWN_TENSORS = 8


def print_comparison(found: ModelComparison) -> None:
    """Print what differs between two models, then their scores."""
    for name, kind in zip(found.names, found.formats, strict=True):
        echo(f"{name}: {kind}")
    same = found.tensors - len(found.changed)
    equal = f"{same} of {found.tensors} are equal"
    echo(f"\ntensors: {found.uncompared or equal}")
    for change in found.changed[:_SHOWN_TENSORS]:
        apart = "of another shape" if change.relative is None else f"{change.relative:.3%} apart"
        echo(f"  {change.name}: {apart}")
    if len(found.changed) > _SHOWN_TENSORS:
        echo(f"  and {len(found.changed) - _SHOWN_TENSORS} more, less different")
    for subject, lines in found.changes.items():
        echo(f"{subject}:")
        for line in lines:
            echo(f"  {line}")
    if found.figures is None:
        echo(f"\nnot scored: {found.unscored}")
        return
    first, second = found.figures
    interval = wording.ends(second["ratio_95"], (found.text or {}).get("windows"))
    echo(f"\nperplexity {_shown(first['perplexity'])} and {_shown(second['perplexity'])}")
    echo(f"{'ratio':<40}{_shown(second['ratio'])} ({interval})")
    for key in ("kl_mean", "kl_median", "kl_p999", "kl_max", "same_top", "target_rms", "tokens"):
        echo(f"{METRICS[key]:<40}{_shown(second[key])}")
    _print_worst(found.worst)


def _shown(value: Any) -> str:
    if value is None:
        return "not finite"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _print_worst(windows: Sequence[WorstWindow]) -> None:
    for window in windows:
        text = one_line(window.text)
        echo(f"worst: window {window.number}, ratio {window.ratio:.3f}, at ...{text}...")


def note_phones(gguf: Path, *, quiet: bool) -> None:
    """Say on stderr if a GGUF file is of a type that phones are slow with."""
    line = phone_note(open_model(gguf).format.removeprefix("GGUF "))
    if line and not quiet:
        note(f"note: {line}")


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
