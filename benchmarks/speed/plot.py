"""Plot of time and memory against growing quantities, one column of panels each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.svg import saved

Points = Sequence[tuple[float, float, float]]
"""Points (position on the axis, seconds, bytes)."""


def write_plot(axes: Mapping[str, Mapping[str, Points]], path: Path) -> None:
    """Write the plot as SVG.

    Args:
        axes: points by task, by name of the axis.
        path: the file.
    """
    with saved(path, width=2.6 * max(1, len(axes)), height=5.5, font_size=11) as figure:
        titles = list(dict.fromkeys(title for tasks in axes.values() for title in tasks))
        colors = {title: f"C{number}" for number, title in enumerate(titles)}
        for number, (name, tasks) in enumerate(axes.items(), start=1):
            _draw(figure, (len(axes), number), name, tasks, colors)
        handles = [Line2D([], [], color=colors[title], marker="o", label=title) for title in titles]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _draw(
    figure: Figure,
    place: tuple[int, int],
    name: str,
    tasks: Mapping[str, Points],
    colors: Mapping[str, str],
) -> None:
    columns, number = place
    for row, (label, unit) in enumerate((("seconds", 1.0), ("peak memory, GB", 1e9)), start=1):
        panel = figure.add_subplot(2, columns, (row - 1) * columns + number)
        for title, points in tasks.items():
            values = [point[row] / unit for point in points]
            panel.plot([p[0] for p in points], values, "o-", markersize=3, color=colors[title])
        panel.set_xlabel(name)
        # Ticks at the measured points only, since more don't fit below narrow panels.
        panel.set_xticks(sorted({point[0] for points in tasks.values() for point in points}))
        panel.tick_params(axis="x", labelrotation=45)
        panel.set_ylabel(label if number == 1 else "")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.2)
