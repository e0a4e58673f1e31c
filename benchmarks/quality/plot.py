"""Plot of perplexity increase against bits per weight, one panel per model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from benchmarks.peers.tools import OURS, TOOLS
from benchmarks.quality.entries import Entry
from benchmarks.quality.result import Result
from benchmarks.svg import saved

# Height of a label relative to the panel, and the smallest increase that is drawn.
_LABEL_HEIGHT = 0.022
_LEAST = 1e-4
_PLAIN_NUMBER = FuncFormatter(lambda value, _place: f"{value:g}")
_MARKERS = "osD^vPX<"


def write_plot(panels: Mapping[str, Mapping[Entry, Result]], path: Path) -> None:
    """Write the plot as SVG.

    Args:
        panels: results by entry, by name of the model.
        path: the file.
    """
    with saved(path, width=9, height=5.5 * max(1, len(panels))) as figure:
        for number, (name, results) in enumerate(panels.items(), start=1):
            _draw(figure.add_subplot(len(panels), 1, number), name, results)


def _draw(axes: Axes, name: str, results: Mapping[Entry, Result]) -> None:
    axes.set_title(name)
    axes.set_xlabel("bits a weight, of the blocks' matrices")
    axes.set_ylabel("perplexity increase, %")
    axes.set_yscale("log")
    for (tool, marker), color in zip(zip(TOOLS, _MARKERS, strict=True), _colors(), strict=True):
        points = [(each, results[each]) for each in results if each.tool == tool]
        if not points:
            continue
        axes.plot(
            [result.linear_bits for _, result in points],
            [_height(result) for _, result in points],
            marker,
            color=color,
            label=tool,
            markersize=7 if tool == OURS else 4,
        )
    axes.margins(x=0.12)
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left")
    axes.yaxis.set_major_formatter(_PLAIN_NUMBER)
    axes.yaxis.set_minor_formatter(_PLAIN_NUMBER)
    axes.grid(which="both", alpha=0.2)
    _label(axes, results)


def _colors() -> Sequence[str]:
    """One color per tool; ours stands out."""
    return ["crimson", *(f"C{number}" for number in range(len(TOOLS) - 1))]


def _height(result: Result) -> float:
    """Perplexity increase in percent, at least the smallest that is drawn."""
    return 100 * max(result.increase(0), _LEAST)


def _label(axes: Axes, results: Mapping[Entry, Result]) -> None:
    """Write each entry's name next to its point, moved up if another name is there."""
    # Reading the limits applies pending autoscaling, which the transformation doesn't do.
    axes.get_xlim()
    axes.get_ylim()
    to_panel = axes.transData + axes.transAxes.inverted()
    taken: list[tuple[float, float]] = []
    for entry in sorted(results, key=lambda each: _height(results[each])):
        point = (results[entry].linear_bits, _height(results[entry]))
        x, y = (float(value) for value in to_panel.transform(point))
        # Names are about a fifth of the panel's width.
        near = [top for left, top in taken if abs(left - x) < 0.2]
        y = max([y, *(top + _LABEL_HEIGHT for top in near if top + _LABEL_HEIGHT > y)])
        taken.append((x, y))
        label = axes.annotate(
            entry.name,
            point,
            (x + 0.012, y),
            textcoords="axes fraction",
            fontsize=6,
            va="center",
            color="crimson" if entry.tool == OURS else "black",
        )
        # A stack of names must not shrink the panel.
        label.set_in_layout(False)
