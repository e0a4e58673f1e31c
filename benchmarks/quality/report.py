"""Tables and plot of the results, written into docs/."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click

from benchmarks.markers import replace_between
from benchmarks.peers.tools import OLDER, OURS, source_of
from benchmarks.quality.entries import ENTRIES, Entry
from benchmarks.quality.plot import write_plot
from benchmarks.quality.result import Result, key_of, load_result
from benchmarks.quality.subject import Subject
from phi3quant.units import size

Rows = Mapping[Entry, Result]
"""Entries with their results."""

_TITLES = {"real": "Quality against size: SmolLM2-135M in Phi-3's layout, quantized by each tool"}
"""Headings of plots, by the name of the model."""


def write_report(subjects: Sequence[Subject], docs: Path) -> None:
    """Write the tables into quality.md, between its markers, and the first model's plot next to it.

    Results of other texts or settings are left out and listed on the terminal; those of an older
    version of the source are marked.
    """
    found = {subject.name: _current(subject) for subject in subjects}
    tables = [_section(subject, found[subject.name]) for subject in subjects]
    docs.mkdir(parents=True, exist_ok=True)
    replace_between(docs / "quality.md", "bench-quality", "\n\n".join(tables))
    first = subjects[0].name
    text = subjects[0].text_hashes[0]
    points = {
        entry: (result.linear_bits, 100 * result.increase(text))
        for entry, result in _made(found[first], text).items()
        if text in result.scores
    }
    if points:
        write_plot(plot_title(first), points, docs / "quality.svg")


def plot_title(subject: str) -> str:
    """Heading of a model's plot."""
    return _TITLES.get(subject, subject)


def _current(subject: Subject) -> dict[Entry, Result]:
    results = {entry: load_result(entry, subject) for entry in ENTRIES}
    known = {entry: result for entry, result in results.items() if result is not None}
    current = {entry: each for entry, each in known.items() if each.key == key_of(entry, subject)}
    stale = [entry.title for entry in known if entry not in current]
    if stale:
        click.echo(f"{subject.name}: left out, for they are to be measured again: {stale}")
    return current


def _made(rows: Rows, text: str) -> dict[Entry, Result]:
    """Results of tools that didn't refuse, by bits and then by perplexity on a text."""
    made = {entry: result for entry, result in rows.items() if result.refused is None}

    def place(entry: Entry) -> tuple[float, float]:
        result = made[entry]
        increase = result.increase(text) if text in result.scores else math.inf
        # Rounded, since names and shapes add a thousandth of a bit that mustn't affect the order.
        return round(result.linear_bits, 1), increase

    return {entry: made[entry] for entry in sorted(made, key=place)}


def _section(subject: Subject, rows: Rows) -> str:
    """Table of one model, with refusals, texts and versions."""
    texts = [description for _, description in subject.scored]
    names = [_named(description["text"]) for description in texts]
    hashes = subject.text_hashes
    older = any(_is_older(entry, result) for entry, result in rows.items())
    headings = ["bits a weight", "of the file"]
    headings += [heading for n in names for heading in (f"{n}, 95 % interval", "mean KL")]
    headings += ["time", "memory"]
    refused = {entry: result.refused for entry, result in rows.items() if result.refused}
    lines = [
        f"### {subject.name}",
        "",
        "| | " + " | ".join(headings) + " |",
        "|---|" + "---|" * len(headings),
        *(_line(entry, result, hashes) for entry, result in _made(rows, hashes[0]).items()),
        *(["", f"{OLDER} measured with an older version of the source"] if older else []),
        *(["", "Refused:", ""] if refused else []),
        *(f"- {entry.title}: `{reason}`" for entry, reason in refused.items()),
    ]
    scored = " and ".join(
        f"{description['windows']} windows of {description['window_tokens']} of {name}"
        for description, name in zip(texts, names, strict=True)
    )
    calibration = f"{len(subject.calibration)} windows of {subject.seq_len} tokens"
    threads = " or ".join(str(number) for number in sorted({row.threads for row in rows.values()}))
    used = (
        f"Calibrated on {calibration} of {_named(subject.calib)}; scored on {scored}. "
        f"Threads of each tool: {threads}."
    )
    return "\n".join([*lines, "", used, "", f"Versions: {_versions(rows)}."])


def _named(text: str) -> str:
    """Name of a text without its folder."""
    return Path(text).name if Path(text).is_absolute() else text


def _is_older(entry: Entry, result: Result) -> bool:
    return result.source != source_of(entry.tool, entry.settings)


def _line(entry: Entry, result: Result, texts: Sequence[str]) -> str:
    title = f"**{entry.title}**" if entry.tool == OURS else entry.title
    title += f" {OLDER}" if _is_older(entry, result) else ""
    cells = [f"{result.linear_bits:.3f}", f"{result.file_bits:.2f}"]
    for text in texts:
        score = result.scores.get(text)
        if score is None:
            cells += ["not scored", ""]
            continue
        low, high = (float(end) - 1 for end in score["ratio_95"])
        cells.append(f"{result.increase(text):+.2%} ({low:+.2%} to {high:+.2%})")
        cells.append(f"{score['kl_mean']:.4f}")
    # Some peers do all their work while their result is read.
    known = result.seconds > 0
    cells += [f"{result.seconds:.0f} s", size(result.peak_bytes)] if known else ["", ""]
    return f"| {title} | " + " | ".join(cells) + " |"


def _versions(rows: Rows) -> str:
    """Versions of the packages of all tools."""
    by_tool = {entry.tool: result.versions for entry, result in rows.items()}
    return "; ".join(f"{tool} with {_listed(found.items())}" for tool, found in by_tool.items())


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in pairs)
