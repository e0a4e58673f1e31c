"""Figure of the errors of each layer's matrices."""

import math
from collections.abc import Sequence
from itertools import chain

from phi3quant.reporting.drawing import Axes, Figure, Mesh, draw
from phi3quant.reporting.error_map import ErrorMap

_KINDS = {"qkv_proj": "qkv", "o_proj": "o", "gate_up_proj": "gate, up", "down_proj": "down"}


def draw_errors(name: str, record: ErrorMap) -> str:
    """Errors per layer and matrix on a logarithmic scale, and their ratio to rounding's."""
    layers = len(record.errors)
    kinds = [_KINDS.get(kind, kind) for kind in record.kinds]

    def fill(figure: Figure) -> None:
        from matplotlib.colors import Normalize, TwoSlopeNorm  # noqa: PLC0415 - an extra
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

        errors, relative = figure.subplots(1, 2, sharey=True)
        # The logarithm is taken here: matplotlib's own scale fails on extreme values.
        logarithms = [[_logarithm(each) for each in row] for row in record.errors]
        known = [each for each in chain.from_iterable(logarithms) if each is not None] or [0.0]
        mesh = _cells(errors, logarithms, kinds, "viridis", Normalize(min(known), max(known)))
        errors.set_title("squared error", fontsize=10)
        bar = figure.colorbar(mesh, ax=errors, location="bottom", fraction=0.05, aspect=40)
        bar.locator, bar.formatter = MaxNLocator(2), _power
        bar.outline.set_visible(False)
        bar.set_label("squared output units per token", fontsize=9)

        most = max(filter(None, chain.from_iterable(record.relative)), default=1.0)
        apart = TwoSlopeNorm(1.0, 0.0, max(2.0, most))
        mesh = _cells(relative, record.relative, kinds, "RdYlBu_r", apart)
        _label(relative, record.relative, mesh)
        relative.set_title("÷ error of rounding", fontsize=10)
        relative.set_xlabel("a ratio, without unit", fontsize=9)
        errors.set_ylabel("layer")
        errors.set_yticks([layer + 0.5 for layer in _ticks(layers)], _ticks(layers))
        errors.set_ylim(layers, 0)

    height = 1.6 + 0.21 * layers
    return draw(
        name, "Error of each layer's matrices, and its ratio to that of rounding", height, fill
    )


def _cells(
    axes: Axes,
    rows: Sequence[Sequence[float | None]],
    kinds: Sequence[str],
    colours: str,
    scale: object,
) -> Mesh:
    """Colour a cell for each value; unknown values stay transparent."""
    values = [[math.nan if each is None else each for each in row] for row in rows]
    axes.grid(visible=False)
    axes.set_xticks([at + 0.5 for at in range(len(kinds))], kinds, rotation=40, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes.pcolormesh(values, cmap=colours, norm=scale, edgecolors="none")


def _label(axes: Axes, rows: Sequence[Sequence[float | None]], mesh: Mesh) -> None:
    """Write the value into each cell, dark on bright colours and bright on dark ones."""
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
    """The value of a decimal logarithm; values beyond the range of floats stay powers of ten."""
    return f"{10**logarithm:.2g}" if abs(logarithm) < 300 else f"1e{logarithm:.0f}"


def _ticks(layers: int) -> Sequence[int]:
    return range(0, layers, 1 if layers <= 12 else 4)
