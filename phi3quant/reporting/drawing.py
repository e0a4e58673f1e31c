"""Figures as SVG that takes colours and fonts from the surrounding page."""

import io
import re
from collections.abc import Callable
from typing import Any

from phi3quant.errors import MissingExtraError

Axes = Any
Figure = Any
Mesh = Any
"""Types of matplotlib, which is imported when a figure is drawn."""

WIDTH = 5.0
"""Inches, at 72 SVG units each: close to a phone's width, so that text keeps its size."""

INK, FAINT = "#010101", "#020202"
"""Placeholders for the page's colours of text and of lines."""
_SERIES = 8
SERIES = tuple(f"#0303{index:02x}" for index in range(_SERIES))
"""Placeholders for the page's colours of series, in their order."""

_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--line)",
    **{placeholder: f"var(--series-{index})" for index, placeholder in enumerate(SERIES)},
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
}


def check_drawing() -> None:
    """Check, before any other work, that figures can be drawn.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("a page with figures", "report") from None


def draw(name: str, title: str, height: float, fill: Callable[[Figure], None]) -> str:
    """A figure as an ``<svg>`` element.

    Args:
        name: prefix of the ids in it, unique on the page.
        title: text alternative for screen readers.
        height: in inches.
        fill: adds axes to a figure and draws on them, in the placeholder colours.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    check_drawing()
    from matplotlib import rc_context  # noqa: PLC0415 - an extra
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure as NewFigure  # noqa: PLC0415

    content = io.StringIO()
    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = NewFigure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        fill(figure)
        # Dates and versions would make each figure differ from the last.
        omitted = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", transparent=True, metadata=omitted)
    return _adopt(content.getvalue(), name, title)


def _adopt(drawn: str, name: str, title: str) -> str:
    """Turn a standalone SVG file into an element of a page."""
    element = drawn[drawn.index("<svg") :].strip()
    # A <style> in it would apply to the whole page.
    element = re.sub(r"<(metadata|style).*?</\1>", "", element, flags=re.DOTALL)
    head, body = element.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    # Ids must be unique on the page.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", body).replace("xlink:href", "href")
    # The page's font applies; the layout was computed with a wider one.
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, variable)
    return f'<svg {box[0]} role="img" aria-label="{title}">{body}'
