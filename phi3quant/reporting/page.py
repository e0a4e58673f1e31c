"""A report as one self-contained HTML page."""

from pathlib import Path

from phi3quant.disk.output import clear_os_errors, write_bytes
from phi3quant.errors import OutputError
from phi3quant.evaluation.paired_statistics import FEW_WINDOWS
from phi3quant.reporting import tables, wording
from phi3quant.reporting.audit_table import audit_table
from phi3quant.reporting.error_plot import draw_errors
from phi3quant.reporting.frame import markup, rendered
from phi3quant.reporting.memory_tables import device_table, memory_table
from phi3quant.reporting.model_table import model_table
from phi3quant.reporting.plots import draw_divergence, draw_quality, has_intervals
from phi3quant.reporting.provenance_table import provenance_table
from phi3quant.reporting.report import Report
from phi3quant.reporting.series import legend
from phi3quant.reporting.summary import verdicts

_GENERATOR = "phi3quant report"
_MARK = b'<meta name="generator" content="phi3quant report'
"""Start of the element that marks a page as a report of phi3quant."""
_MARK_WITHIN = 2048


def render(report: Report, output: str | Path = "report.html") -> str:
    """The page as HTML.

    Args:
        report: contents.
        output: file name in the command that reproduces the page.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    maps = [
        (tables.error_table(each), markup(draw_errors(f"errors-{number}", each)))
        for number, each in enumerate(report.error_maps)
    ]
    return rendered(
        "page.html.j2",
        generator=_GENERATOR,
        report=report,
        measurement=report.measurement,
        command=report.invocation.command(output) if report.invocation else "",
        verdicts=verdicts(report),
        model=model_table(report),
        legend=legend(report),
        artifacts=report.artifacts,
        variants=tables.variant_table(report, report.artifacts),
        ways=tables.ways_table(report),
        quality=markup(draw_quality(report)),
        divergences=tables.divergence_table(report, report.artifacts),
        divergence=markup(draw_divergence(report)),
        maps=maps,
        wording=wording,
        intervals=has_intervals(report),
        few_windows=FEW_WINDOWS,
        memory=memory_table(report.outlooks),
        devices=device_table(report.outlooks, fits=False),
        devices_that_fit=device_table(report.outlooks, fits=True),
        audits=audit_table(report),
        provenance=[provenance_table(variant) for variant in report.variants],
    )


def check_page(path: str | Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that isn't a report.

    Raises:
        OutputError: ``path`` is another kind of file, and ``overwrite`` is false.
    """
    path = Path(path)
    if overwrite or not path.exists():
        return
    with clear_os_errors(path), path.open("rb") as file:
        if _MARK not in file.read(_MARK_WITHIN):
            raise OutputError(
                f"{path} exists and is no report of phi3quant's; choose another -o, or pass "
                "--overwrite to replace it"
            )


def write_page(path: str | Path, report: Report) -> int:
    """Write the page, atomically; returns its size in bytes.

    Raises:
        MissingExtraError: matplotlib isn't installed.
        OutputError: the file can't be written.
    """
    content = render(report, path).encode()
    write_bytes(Path(path), content)
    return len(content)
