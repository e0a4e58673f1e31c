"""Tables of the measurements, written into docs/performance.md."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.markers import replace_between
from benchmarks.peers.tools import OLDER, source_of
from benchmarks.speed.plan import TASKS, Size, Task, Turn
from benchmarks.speed.plot import write_plot
from benchmarks.speed.sample import Sample, Samples, key_of
from benchmarks.synthetic import SHAPES

AXES: Mapping[str, str] = {
    "layers": "layers",
    "width": "hidden size",
    "samples": "calibration tokens",
    "threads": "threads",
}
"""Names of the axes in tables and plots."""
# Limit of the relative standard error of scaled times; times of a few seconds are mostly noise.
_UNCERTAIN = 0.2


def write_report(
    turns: Sequence[Turn], growth: Mapping[str, Sequence[Turn]], samples: Samples, docs: Path
) -> None:
    """Write the tables between the markers of performance.md, and the plot next to it."""
    used = _used([*turns, *(turn for several in growth.values() for turn in several)], samples)
    measured = [turn for turn in turns if _used([turn], samples)]
    parts = [_machines(used), *(_compared(turn, samples) for turn in measured)]
    grown = {axis: _medians(axis, several, samples) for axis, several in growth.items()}
    if any(grown.values()):
        parts.append("![Growth with layers, width, tokens and threads](speed.svg)")
    for axis, found in grown.items():
        if found:
            parts.append(_grown(axis, found))
        if found and axis == "layers":
            parts.append(scaled(found, SHAPES[growth[axis][0].size.shape]["num_hidden_layers"]))
    parts.append(_versions(used))
    docs.mkdir(parents=True, exist_ok=True)
    replace_between(docs / "performance.md", "bench-speed", "\n\n".join(filter(None, parts)))
    if any(grown.values()):
        axes = {AXES[axis]: found for axis, found in grown.items() if found}
        write_plot(axes, docs / "speed.svg")


def _runs(task: Task, turn: Turn, samples: Samples) -> list[Sample]:
    keys = [key_of(task, turn.size, number) for number in range(turn.rounds)]
    return [samples.known[key] for key in keys if key in samples.known]


def _size(size: Size) -> str:
    width = SHAPES[size.shape]["hidden_size"]
    return (
        f"{size.layers} of the blocks of {size.shape} (hidden size {width}) with embedding, head, "
        f"{size.samples} windows of 512 tokens where there is calibration, threads: {size.threads}"
    )


def _compared(turn: Turn, samples: Samples) -> str:
    lines = [
        f"### {turn.name}",
        "",
        f"{_size(turn.size)}.",
        "",
        "| | median | range | peak memory | times phi3quant's time |",
        "|---|---|---|---|---|",
    ]
    refused = []
    for name in turn.tasks:
        task = TASKS[name]
        runs = _runs(task, turn, samples)
        reasons = [run.refused for run in runs if run.refused]
        if reasons:
            refused.append(f"- {task.title} refused: `{reasons[0]}`")
        elif runs:
            lines.append(_line(task, runs, turn, samples))
    return "\n".join([*lines, *([""] if refused else []), *refused])


def _line(task: Task, runs: Sequence[Sample], turn: Turn, samples: Samples) -> str:
    seconds = [run.seconds for run in runs]
    peak = max(run.peak_bytes for run in runs) / 1e9
    title = f"**{task.title}**" if task.beside is None else task.title
    title += f" {OLDER}" if _is_older(task, runs) else ""
    spread = f"{min(seconds):.1f}-{max(seconds):.1f} s"
    cells = [title, f"{statistics.median(seconds):.1f} s", spread, f"{peak:.2f} GB"]
    ours = _runs(TASKS[task.beside], turn, samples) if task.beside else []
    if ours:
        # Ratios within a round, so that other load on the machine affects both.
        ratios = [run.seconds / own.seconds for run, own in zip(runs, ours, strict=False)]
        extent = f"{min(ratios):.2f}-{max(ratios):.2f}"
        cells.append(f"{statistics.median(ratios):.2f} ({extent}) of {task.beside}")
    else:
        cells.append("")
    return "| " + " | ".join(cells) + " |"


Grown = Mapping[str, Sequence[tuple[float, float, float]]]
"""Points (position on the axis, seconds, bytes) by title of the task, in growing order."""


def _medians(axis: str, turns: Sequence[Turn], samples: Samples) -> Grown:
    found: dict[str, list[tuple[float, float, float]]] = {}
    for turn in turns:
        for name in turn.tasks:
            task = TASKS[name]
            runs = [run for run in _runs(task, turn, samples) if run.refused is None]
            if runs:
                seconds = statistics.median(run.seconds for run in runs)
                peak = float(max(run.peak_bytes for run in runs))
                found.setdefault(task.title, []).append((_at(axis, turn.size), seconds, peak))
    return found


def _at(axis: str, size: Size) -> float:
    places = {
        "layers": size.layers,
        "width": SHAPES[size.shape]["hidden_size"],
        "samples": 512 * size.samples,
        "threads": size.threads,
    }
    return float(places[axis])


def _grown(axis: str, found: Grown) -> str:
    places = sorted({place for points in found.values() for place, _, _ in points})
    lines = [
        f"### Growth with {AXES[axis]}",
        "",
        f"| {AXES[axis]} | " + " | ".join(f"{place:.0f}" for place in places) + " |",
        "|---|" + "---|" * len(places),
    ]
    for title, points in found.items():
        cells = {place: f"{seconds:.1f} s, {peak / 1e9:.2f} GB" for place, seconds, peak in points}
        lines.append(f"| {title} | " + " | ".join(cells.get(p, "") for p in places) + " |")
    return "\n".join(lines)


def scaled(found: Grown, layers: int) -> str:
    """Estimated times of the whole model, by extrapolating straight lines through the times."""
    lines = []
    reach = np.array([layers, 1.0])
    for title, points in found.items():
        # Two points always lie on a line and give no standard error.
        if len(points) < 3:
            continue
        line, spread = np.polyfit([p[0] for p in points], [p[1] for p in points], 1, cov=True)
        seconds, error = reach @ line, np.sqrt(reach @ spread @ reach)
        if error < _UNCERTAIN * seconds:
            lines.append(f"- {title}: {seconds:.0f} s, standard error {error:.0f} s")
    if not lines:
        return ""
    heading = f"Scaled to {layers} layers by a straight line through these times, where they tell:"
    return "\n".join([heading, "", *lines])


Used = Mapping[Task, Sequence[Sample]]
"""Samples in the report."""


def _used(turns: Sequence[Turn], samples: Samples) -> Used:
    found: dict[Task, list[Sample]] = {}
    for turn in turns:
        for name in turn.tasks:
            task = TASKS[name]
            found.setdefault(task, []).extend(_runs(task, turn, samples))
    return {task: runs for task, runs in found.items() if runs}


def _machines(used: Used) -> str:
    """Line with the machines on which the samples were measured."""
    names = dict.fromkeys(run.machine for runs in used.values() for run in runs)
    older = any(_is_older(task, runs) for task, runs in used.items())
    note = f" {OLDER}: measured with an older version of the source." if older else ""
    return f"Measured on: {'; '.join(names)}.{note}"


def _is_older(task: Task, runs: Sequence[Sample]) -> bool:
    source = source_of(task.tool, task.settings)
    return any(run.source != source for run in runs)


def _versions(used: Used) -> str:
    newest = {task.tool: runs[-1].versions for task, runs in used.items()}
    listed = [
        f"{tool} with " + ", ".join(f"{name} {version}" for name, version in versions.items())
        for tool, versions in newest.items()
    ]
    return f"Versions: {'; '.join(listed)}."
