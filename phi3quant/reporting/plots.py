"""What a report's figures show; each is named by numbers that the page's tables explain."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain

from phi3quant.reporting.divergence import THRESHOLDS
from phi3quant.reporting.drawing import INK, SERIES, Axes, Figure, Mesh, draw
from phi3quant.reporting.error_map import ErrorMap
from phi3quant.reporting.report import Report
from phi3quant.reporting.stated import interval, number
from phi3quant.reporting.wording import too_few

_KINDS = {"qkv_proj": "qkv", "o_proj": "o", "gate_up_proj": "gate, up", "down_proj": "down"}


def draw_quality(report: Report) -> str | None:
    """Ratio of perplexities against size, with intervals; None where no ratio is known."""
    points = []
    for index, row in enumerate(report.measurement.rows):
        ratio = number(row.figures.get("ratio"))
        if ratio is not None:
            size = report.variants[row.variant].inspection.weight_bytes
            ends = None if too_few(row.windows) else interval(row.figures.get("ratio_95"))
            points.append((index, size, ratio, ends))
    if not points:
        return None
    unit, title = _unit(size for _, size, _, _ in points)

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, size, ratio, ends in points:
            colour, low_high = SERIES[index % len(SERIES)], ends or (ratio, ratio)
            axes.vlines(size / unit, *low_high, color=colour, linewidth=2)
            axes.plot(size / unit, ratio, "o", color=colour, markersize=7)
            # Neighbours in the table often lie side by side here: one is named left, one right.
            right = index % 2 == 0
            axes.annotate(
                str(index + 1),
                (size / unit, ratio),
                xytext=(8 if right else -8, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                weight="bold",
            )
        axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.margins(x=0.15, y=0.12)
        axes.set_xlabel(f"weights on disk, {title}")
        axes.set_ylabel("perplexity ÷ full precision's")
        axes.ticklabel_format(useOffset=False)

    return draw("quality", "Ratio of perplexities against size on disk", 3.4, fill)


def draw_divergence(report: Report) -> str | None:
    """Share of tokens above each divergence; None where nothing was scored."""
    lines = [
        (index, row.divergence)
        for index, row in enumerate(report.measurement.rows)
        if row.divergence is not None and any(row.divergence.above)
    ]
    if not lines:
        return None
    tokens = int(number(report.measurement.reference.get("tokens")) or 1)

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, found in lines:
            kept = [(at, share) for at, share in zip(THRESHOLDS, found.above, strict=True) if share]
            axes.loglog(
                [at for at, _ in kept],
                [share for _, share in kept],
                color=SERIES[index % len(SERIES)],
                # Series that share a colour, or look alike to someone, differ in their dashes.
                linestyle=_DASHES[index % len(_DASHES)],
                linewidth=2,
                label=str(index + 1),
            )
        axes.set_ylim(bottom=0.7 / tokens, top=1.4)
        axes.xaxis.set_major_formatter(lambda at, _: f"{at:g}")
        axes.yaxis.set_major_formatter(lambda at, _: f"{at:.4g}")
        axes.set_xlabel("KL divergence of a token's prediction, nats")
        axes.set_ylabel("share of tokens above it")
        axes.legend(frameon=False, ncols=2, handlelength=3)

    return draw("divergence", "Share of tokens above each divergence", 3.4, fill)


_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (9, 2)))


def draw_errors(name: str, found: ErrorMap) -> str:
    """Errors per layer and kind of matrix, on a logarithmic scale and beside rounding's."""
    layers = len(found.errors)
    kinds = [_KINDS.get(kind, kind) for kind in found.kinds]

    def fill(figure: Figure) -> None:
        from matplotlib.colors import Normalize, TwoSlopeNorm  # noqa: PLC0415 - an extra
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

        errors, relative = figure.subplots(1, 2, sharey=True)
        # The logarithm is taken here: matplotlib's own scale gives up on extreme values.
        logarithms = [[_logarithm(each) for each in row] for row in found.errors]
        known = [each for each in chain.from_iterable(logarithms) if each is not None] or [0.0]
        mesh = _cells(errors, logarithms, kinds, "viridis", Normalize(min(known), max(known)))
        errors.set_title("error", fontsize=10)
        bar = figure.colorbar(mesh, ax=errors, location="bottom", fraction=0.05)
        bar.locator, bar.formatter = MaxNLocator(2), _power
        bar.outline.set_visible(False)

        most = max(filter(None, chain.from_iterable(found.relative)), default=1.0)
        apart = TwoSlopeNorm(1.0, 0.0, max(2.0, most))
        mesh = _cells(relative, found.relative, kinds, "RdYlBu_r", apart)
        _label(relative, found.relative, mesh)
        relative.set_title("÷ rounding's", fontsize=10)
        errors.set_ylabel("layer")
        errors.set_yticks([layer + 0.5 for layer in _ticks(layers)], _ticks(layers))
        errors.set_ylim(layers, 0)

    height = 1.3 + 0.21 * layers
    return draw(name, "Error of each layer's matrices, and beside that of rounding", height, fill)


def _cells(
    axes: Axes,
    rows: Sequence[Sequence[float | None]],
    kinds: Sequence[str],
    colours: str,
    scale: object,
) -> Mesh:
    """Colour a cell for each value; what isn't known stays the page's colour."""
    values = [[math.nan if each is None else each for each in row] for row in rows]
    axes.grid(visible=False)
    axes.set_xticks([at + 0.5 for at in range(len(kinds))], kinds, rotation=40, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes.pcolormesh(values, cmap=colours, norm=scale, edgecolors="none")


def _label(axes: Axes, rows: Sequence[Sequence[float | None]], mesh: Mesh) -> None:
    """Write the value into each cell, in what shows on its colour."""
    for layer, row in enumerate(rows):
        for at, value in enumerate(row):
            if value is None:
                continue
            red, green, blue, _ = mesh.to_rgba(value)
            bright = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
            axes.text(
                *(at + 0.5, layer + 0.5, f"{value:.2f}" if abs(value) < 100 else f"{value:.0e}"),
                ha="center",
                va="center_baseline",
                fontsize=7.5,
                color="#111111" if bright else "#ffffff",
            )


def _logarithm(value: float | None) -> float | None:
    return math.log10(value) if value is not None and value > 0 else None


def _power(logarithm: float, _position: int | None = None) -> str:
    """What a logarithm is of; those past what floats hold stay powers."""
    return f"{10**logarithm:.2g}" if abs(logarithm) < 300 else f"1e{logarithm:.0f}"


def _ticks(layers: int) -> Sequence[int]:
    return range(0, layers, 1 if layers <= 12 else 4)


def _unit(sizes: Iterable[int]) -> tuple[float, str]:
    """Bytes in the unit that suits the largest of some sizes, and its name."""
    return (1e9, "GB") if max(sizes) >= 1e9 else (1e6, "MB")
