"""Plot of time and memory against growing quantities, one column of panels each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.svg import saved

Points = Sequence[tuple[float, float, float]]
"""Points (position on the axis, seconds, bytes)."""


def write_plot(axes: Mapping[str, Mapping[str, Points]], path: Path) -> None:
    """Write the plot as SVG.

    Args:
        axes: points by task, by name of the axis.
        path: the file.
    """
    with saved(path, width=3.2 * max(1, len(axes)), height=5.5) as figure:
        for number, (name, tasks) in enumerate(axes.items(), start=1):
            _draw(figure, (len(axes), number), name, tasks)


def _draw(figure: Figure, place: tuple[int, int], name: str, tasks: Mapping[str, Points]) -> None:
    columns, number = place
    for row, (label, unit) in enumerate((("seconds", 1.0), ("peak memory, GB", 1e9)), start=1):
        panel = figure.add_subplot(2, columns, (row - 1) * columns + number)
        for color, (title, points) in enumerate(tasks.items()):
            values = [point[row] / unit for point in points]
            panel.plot(
                [p[0] for p in points], values, "o-", markersize=3, color=f"C{color}", label=title
            )
        panel.set_xlabel(name)
        panel.set_ylabel(label if number == 1 else "")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.2)
        if number == 1 and row == 1:
            panel.legend(fontsize=6)
