"""The plot of one model: perplexity increase against bits per weight, each point labelled."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from benchmarks.peers.tools import OURS, TOOLS
from benchmarks.quality.entries import Entry
from benchmarks.svg import saved

_LEAST = 0.01
"""Smallest increase that is drawn, in percent; a logarithmic axis has no zero."""

_STEPS = (", rtn", " alone")
"""Endings of the rows that run a part of our method; only the table has them."""

_MARKERS = "osD^vPX<>ph"
_COLORS = (
    "crimson",
    "tab:blue",
    "tab:orange",
    "tab:green",
    "tab:purple",
    "k",
    "tab:brown",
    "c",
    "m",
    "tab:olive",
    "tab:pink",
)
_STYLES = dict(zip(TOOLS, zip(_MARKERS, _COLORS, strict=True), strict=True))
"""Marker and colour of each tool; ours stands out."""

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
_PERCENT = FuncFormatter(lambda value, _place: f"+{value:g} %")

# In points. Browsers choose among several fonts; the width suits the widest of them.
_FONT = 9.0
_LINE = 11.5
_LETTER = 5.4
_GAP = 6.0
_SHIFTS = sorted((step * _LINE / 2 for step in range(-120, 121)), key=abs)

Point = tuple[float, float]
"""Bits per weight, and the increase of perplexity in percent."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in points from the panel's corner."""


def write_plot(title: str, points: Mapping[Entry, Point], path: Path) -> None:
    """Write the plot as SVG.

    Args:
        title: heading of the plot.
        points: the results of one model on one text.
        path: the file to write.
    """
    drawn = {
        entry: (bits, max(percent, _LEAST))
        for entry, (bits, percent) in points.items()
        if not entry.name.endswith(_STEPS)
    }
    with saved(path, width=9, height=6.2) as figure:
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=_FONT + 1)
        axes.set_xlabel("bits per weight of the blocks' matrices, scales included", fontsize=_FONT)
        axes.set_ylabel("perplexity increase (lower is better)", fontsize=_FONT)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(_TICKS))
        axes.yaxis.set_major_formatter(_PERCENT)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=_FONT)
        axes.margins(x=0.17, y=0.06)
        axes.grid(which="major", alpha=0.25)
        legend = _draw_points(axes, drawn)
        figure.draw_without_rendering()  # settles the size of the panel
        _draw_labels(axes, drawn, _in_points(axes, legend.get_window_extent()))


def _draw_points(axes: Axes, points: Mapping[Entry, Point]) -> Legend:
    for tool, (marker, color) in _STYLES.items():
        own = [point for entry, point in points.items() if entry.tool == tool]
        if own:
            x, y = zip(*own, strict=True)
            axes.plot(x, y, marker, color=color, label=tool, markersize=8 if tool == OURS else 6)
    return axes.legend(loc="upper right", fontsize=_FONT)


def _draw_labels(axes: Axes, points: Mapping[Entry, Point], legend: Box) -> None:
    """Write each entry's name next to its point, in the nearest place that is free."""
    panel = _in_points(axes, axes.bbox)
    places = {entry: _place(axes, point) for entry, point in points.items()}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    taken.append(legend)
    for entry in sorted(points, key=lambda each: places[each]):
        x, y = places[entry]
        candidates = list(_candidates(x, y, len(entry.name) * _LETTER))
        free = (each for each in candidates if _inside(each[0], panel))
        free = (each for each in free if not any(_overlap(each[0], other) for other in taken))
        label, on_left = next(free, candidates[0])
        taken.append(label)
        left, bottom, right, top = label
        shift = (bottom + top) / 2 - y
        _marker, color = _STYLES[entry.tool]
        leader = {"arrowstyle": "-", "color": color, "alpha": 0.4, "linewidth": 0.7}
        axes.annotate(
            entry.name,
            points[entry],
            ((right if on_left else left) - x, shift),
            textcoords="offset points",
            fontsize=_FONT,
            va="center",
            ha="right" if on_left else "left",
            color=color,
            arrowprops=leader if abs(shift) > _LINE / 2 else None,
        ).set_in_layout(False)


def _place(axes: Axes, point: Point) -> tuple[float, float]:
    """A result's place on the drawing, in points from the panel's corner."""
    x, y = axes.transData.transform(point)
    scale = 72 / axes.figure.dpi
    return (x - axes.bbox.x0) * scale, (y - axes.bbox.y0) * scale


def _in_points(axes: Axes, box: Bbox) -> Box:
    scale = 72 / axes.figure.dpi
    left, bottom = axes.bbox.x0, axes.bbox.y0
    x0, y0, x1, y1 = box.x0 - left, box.y0 - bottom, box.x1 - left, box.y1 - bottom
    return x0 * scale, y0 * scale, x1 * scale, y1 * scale


def _candidates(x: float, y: float, width: float) -> Iterator[tuple[Box, bool]]:
    """Boxes for a label next to a point, the nearest first, and whether each is on its left."""
    for shift in _SHIFTS:
        low, high = y + shift - _LINE / 2, y + shift + _LINE / 2
        yield (x + _GAP, low, x + _GAP + width, high), False
        yield (x - _GAP - width, low, x - _GAP, high), True


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _inside(box: Box, panel: Box) -> bool:
    return all(low > 0 for low in box[:2]) and box[2] < panel[2] and box[3] < panel[3]
