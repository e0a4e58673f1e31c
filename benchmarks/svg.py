"""Plots as reproducible SVG files: the same data give the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure


@contextmanager
def saved(path: Path, width: float, height: float, font_size: float = 8) -> Iterator[Figure]:
    """Figure of ``width`` by ``height`` inches that is written to ``path`` after the body.

    Args:
        path: SVG file to write.
        width: inches.
        height: inches.
        font_size: size of the letters in points. A page of text shows about 750 points of width, so
            wider figures shrink, and their letters with them.
    """
    # Text stays text, and the file contains no random ids and no date.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "phi3quant", "font.size": font_size}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib ends some lines with spaces.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
