"""Results of a sweep as one self-contained HTML page."""

from pathlib import Path

from phi3quant.disk.output import write_bytes
from phi3quant.reporting.frame import markup, rendered
from phi3quant.sweep.plot import draw_increase, draw_kl
from phi3quant.sweep.results import Results
from phi3quant.sweep.tables import artifact_table, missing_table, summary
from phi3quant.units import count


def render(results: Results) -> str:
    """The page as HTML.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    models = [
        {
            "title": model.subject.title,
            "kl": markup(draw_kl(f"kl-{number}", model)),
            "increase": markup(draw_increase(f"increase-{number}", model)),
            "table": artifact_table(model),
            "rows": model.rows,
        }
        for number, model in enumerate(results.models, 1)
    ]
    return rendered(
        "sweep.html.j2",
        home="phi3quant.sweep",
        generator="phi3quant sweep",
        models=models,
        summary=list(summary(results)),
        missing=missing_table(results),
        scored_on=_scored_on(results),
    )


def write_page(results: Results) -> Path:
    """Write the page into the folder of the sweep, atomically; returns its path.

    Raises:
        MissingExtraError: matplotlib isn't installed.
        OutputError: the file can't be written.
    """
    path = results.folder.page
    write_bytes(path, render(results).encode())
    return path


def _scored_on(results: Results) -> str:
    text = results.plan.text
    source = str(text.source or "the bundled text that suits the model")
    scored = [model.windows for model in results.models if model.windows is not None]
    windows = f", {count(max(scored), 'window')}" if scored else ""
    return f"The models were scored on {source}{windows}."
