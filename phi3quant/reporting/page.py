"""A report as one HTML page that needs nothing besides itself."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from phi3quant.disk.output import clear_os_errors, write_bytes
from phi3quant.errors import OutputError
from phi3quant.reporting import tables
from phi3quant.reporting.memory_tables import device_table, memory_table
from phi3quant.reporting.plots import draw_divergence, draw_errors, draw_quality
from phi3quant.reporting.provenance_table import provenance_table
from phi3quant.reporting.report import Report
from phi3quant.reporting.summary import summary
from phi3quant.reporting.wording import ratio
from phi3quant.version import tool_version
from phi3quant.visible import visible

_MARK = b'<meta name="generator" content="phi3quant report'
"""By which a page is known as one of ours."""
_MARK_WITHIN = 2048


def render(report: Report) -> str:
    """The page.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    maps = [
        (tables.error_table(each), _markup(draw_errors(f"errors-{number}", each)))
        for number, each in enumerate(report.error_maps)
    ]
    environment = Environment(
        loader=PackageLoader("phi3quant.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        version=tool_version(),
        report=report,
        measurement=report.measurement,
        summary=summary(report),
        variants=tables.variant_table(report),
        quality=_markup(draw_quality(report)),
        divergences=tables.divergence_table(report),
        divergence=_markup(draw_divergence(report)),
        maps=maps,
        numbered=tables.numbered,
        ratio=ratio,
        memory=memory_table(report.outlooks),
        devices=device_table(report.outlooks),
        provenance=[provenance_table(variant) for variant in report.variants],
    )


def check_page(path: Path, *, overwrite: bool) -> None:
    """Refuse to put a page in the place of a file that is no such page.

    Raises:
        OutputError: ``path`` is something else, and there is no leave to replace it.
    """
    if overwrite or not path.exists():
        return
    with clear_os_errors(path), path.open("rb") as file:
        if _MARK not in file.read(_MARK_WITHIN):
            raise OutputError(
                f"{path} exists and is no report of phi3quant's; choose another -o, or pass "
                "--overwrite to replace it"
            )


def write_page(path: Path, report: Report) -> int:
    """Write the page, atomically; returns its size in bytes.

    Raises:
        MissingExtraError: matplotlib isn't installed.
        OutputError: the file can't be written.
    """
    content = render(report).encode()
    write_bytes(path, content)
    return len(content)


def _markup(drawn: str | None) -> Markup | None:
    """A drawing as markup: it holds this project's words and numbers, nothing from outside."""
    return None if drawn is None else Markup(drawn)  # noqa: S704 - see above


def _seen(value: Any) -> Any:
    """What a template puts out; markup is left alone."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
