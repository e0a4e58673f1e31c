"""Figures of quality against size and of the divergence.

Drawings have no text from outside: names of variants stand in the legend, which is escaped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phi3quant.reporting.divergence import THRESHOLDS
from phi3quant.reporting.drawing import INK, Figure, draw
from phi3quant.reporting.measured import Measured
from phi3quant.reporting.report import Report
from phi3quant.reporting.series import Series, legend
from phi3quant.reporting.stated import interval, number
from phi3quant.reporting.wording import too_few

# Points closer than this share of the axis would cover each other.
_TOUCHING = 0.04
# Thresholds from one marker of a curve to the next.
_EVERY = 6


@dataclass(frozen=True)
class _Point:
    """A variant in the figure of quality against size.

    Attributes:
        series: its look.
        size: bytes.
        ratio: of perplexities.
        ends: interval of the ratio; the ratio itself where there is none.
    """

    series: Series
    size: int
    ratio: float
    ends: tuple[float, float]


def draw_quality(report: Report) -> str | None:
    """Ratio of perplexities against size, with intervals; None where no ratio is known."""
    points = []
    for series, row in zip(legend(report), report.artifacts, strict=True):
        ratio = number(row.figures.get("ratio"))
        if ratio is not None:
            size = report.variants[row.variant].inspection.weight_bytes
            points.append(_Point(series, size, ratio, _ends(row) or (ratio, ratio)))
    if not points:
        return None
    unit, title = unit_of(point.size for point in points)
    places = spread([point.size / unit for point in points])

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for point, at in zip(points, places, strict=True):
            look = point.series
            axes.vlines(at, *point.ends, color=look.colour, linewidth=2)
            axes.plot(at, point.ratio, look.marker, color=look.colour, markersize=7)
        axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.margins(x=0.15, y=0.12)
        axes.set_xlabel(f"size of the weights, {title}")
        axes.set_ylabel("perplexity ÷ the original's")
        axes.ticklabel_format(useOffset=False)

    return draw("quality", "Ratio of perplexities against size of the weights", 3.4, fill)


def has_intervals(report: Report) -> bool:
    """Whether ``draw_quality`` draws an interval."""
    return any(_ends(row) for row in report.artifacts)


def _ends(row: Measured) -> tuple[float, float] | None:
    return None if too_few(row.windows) else interval(row.figures.get("ratio_95"))


def spread(places: Sequence[float]) -> list[float]:
    """Places on an axis, those that would touch moved apart around their middle."""
    if not places:
        return []
    room = (max(places) - min(places)) or abs(places[0]) or 1.0
    step = _TOUCHING * room
    moved = list(places)
    group: list[int] = []
    for index in sorted(range(len(places)), key=places.__getitem__):
        if group and places[index] - places[group[-1]] >= step:
            group = []
        group.append(index)
        middle = sum(places[each] for each in group) / len(group)
        for position, each in enumerate(group):
            moved[each] = middle + (position - (len(group) - 1) / 2) * step
    return moved


def draw_divergence(report: Report) -> str | None:
    """Share of tokens above each divergence; None where nothing was scored."""
    lines = [
        (look, row.divergence)
        for look, row in zip(legend(report), report.artifacts, strict=True)
        if row.divergence is not None and any(row.divergence.above)
    ]
    if not lines:
        return None
    tokens = int(number(report.measurement.reference.get("tokens")) or 1)

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for look, divergence in lines:
            kept = [
                (at, share) for at, share in zip(THRESHOLDS, divergence.above, strict=True) if share
            ]
            axes.loglog(
                [at for at, _ in kept],
                [share for _, share in kept],
                color=look.colour,
                # Series that share a colour, or look alike to someone, differ in their dashes.
                linestyle=look.dashes,
                linewidth=2,
                marker=look.marker,
                markersize=5,
                # Markers of curves that lie on each other alternate.
                markevery=(look.index % _EVERY, _EVERY),
            )
        axes.set_ylim(bottom=0.7 / tokens, top=1.4)
        axes.xaxis.set_major_formatter(lambda at, _: f"{at:g}")
        axes.yaxis.set_major_formatter(lambda at, _: f"{at:.4g}")
        axes.set_xlabel("KL divergence of a token's prediction, nats")
        axes.set_ylabel("share of tokens above it")

    return draw("divergence", "Share of tokens above each divergence", 3.4, fill)


def unit_of(sizes: Iterable[int]) -> tuple[float, str]:
    """Bytes per unit, and the unit's name, for the largest of the sizes."""
    return (1e9, "GB") if max(sizes) >= 1e9 else (1e6, "MB")
