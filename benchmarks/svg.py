"""Plots as reproducible SVG files: the same data give the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure


@contextmanager
def saved(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Figure of ``width`` by ``height`` inches that is written to ``path`` after the body."""
    # Text stays text, and the file contains no random ids and no date.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "phi3quant", "font.size": 8}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib ends some lines with spaces.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
