"""Figures of loss against size, with the front of the best artifacts.

Drawings have no text from outside: points carry the numbers of the table.
"""

from collections.abc import Callable, Sequence

from phi3quant.reporting.drawing import FAINT, INK, SERIES, Figure, draw
from phi3quant.reporting.plots import unit_of
from phi3quant.sweep.results import ModelResults, Row

# Points of the largest plot in which all have their numbers; above it only the front has.
_ALL_NUMBERED = 30
# Ratio of losses from which the axis is logarithmic.
_WIDE = 8


def draw_kl(name: str, model: ModelResults) -> str | None:
    """Mean KL against size; None if nothing is known."""

    def loss(row: Row) -> float | None:
        return row.artifact.figures.kl_mean

    title = "Mean KL against size of the weights"
    return _drawn(name, title, "mean KL, nats", model, model.by_kl, loss)


def draw_increase(name: str, model: ModelResults) -> str | None:
    """Increase of perplexity against size; None if nothing is known."""

    def loss(row: Row) -> float | None:
        increase = row.artifact.increase
        return None if increase is None else 100 * increase

    title = "Increase of perplexity against size of the weights"
    return _drawn(name, title, "increase of perplexity, %", model, model.by_increase, loss)


def _drawn(
    name: str,
    title: str,
    axis: str,
    model: ModelResults,
    front: Sequence[int],
    loss: Callable[[Row], float | None],
) -> str | None:
    points = [(row, value) for row in model.rows if (value := loss(row)) is not None]
    if not points:
        return None
    unit, unit_name = unit_of(row.artifact.nbytes for row, _ in points)
    places = {row.number: (row.artifact.nbytes / unit, value) for row, value in points}
    best = [places[number] for number in front if number in places]

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        others = [place for number, place in places.items() if number not in front]
        axes.plot(*_columns(others), "o", color=FAINT, markeredgecolor=INK, markersize=6)
        axes.step(*_columns(best), where="post", color=SERIES[0], linewidth=1.5)
        axes.plot(*_columns(best), "o", color=SERIES[0], markersize=7)
        for number, place in places.items():
            if number in front or len(places) <= _ALL_NUMBERED:
                axes.annotate(str(number), place, (4, 4), textcoords="offset points", fontsize=8)
        losses = [value for _, value in places.values()]
        if min(losses) > 0 and max(losses) > _WIDE * min(losses):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda at, _: f"{at:g}")
        axes.margins(x=0.12, y=0.15)
        axes.set_xlabel(f"size of the weights, {unit_name}")
        axes.set_ylabel(axis)

    return draw(name, title, 3.4, fill)


def _columns(places: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]
