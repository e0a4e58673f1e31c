"""Plots as SVG files that are the same bytes for the same data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure


@contextmanager
def saved(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw on, of so many inches; it is written when all is drawn."""
    # Text stays text, and nothing in the file depends on chance or time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "phi3quant", "font.size": 8}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Some of its lines end in spaces.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
