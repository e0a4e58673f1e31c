"""The page of a report as HTML."""

import dataclasses
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phi3quant.errors import OutputError
from phi3quant.estimating.devices import known_devices
from phi3quant.reporting.page import check_page, render, write_page
from phi3quant.reporting.report import Report
from phi3quant.reporting.summary import summary
from phi3quant.reporting.tables import variant_table
from phi3quant.reporting.wording import token
from tests.reporting.pages import parsed, words


def test_the_page_is_valid_and_has_every_table_and_figure(page: str) -> None:
    tree = parsed(page)
    assert {section.get("id") for section in tree.iter("section")} >= {
        *("model", "quality", "samples", "divergence", "ways", "errors", "worst", "memory"),
        *("integrity", "provenance", "terms"),
    }
    drawings = [each for each in tree.iter() if str(each.tag).endswith("}svg")]
    assert len(drawings) == 3
    assert all(each.get("viewBox") and each.get("aria-label") for each in drawings)
    labels = [table.get("aria-label") for table in tree.iter("table")]
    assert labels[:3] == ["Model", "Quality and size", "Sample answers"]
    assert labels[3:5] == ["Divergence over the tokens", "Ways of running"]
    assert labels[6:8] == ["Memory at each context", "Devices"]
    assert labels[8] == "Integrity"
    assert len(labels) == 5 + 1 + 2 + (1 + 4) + 3
    assert tree.find(".//meta[@name='viewport']") is not None
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    tree = parsed(page)
    assert "://" not in page
    assert not list(tree.iter("script"))
    links = [
        value
        for element in tree.iter()
        for key, value in element.attrib.items()
        if str(key).endswith(("href", "src"))
    ]
    assert all(value.startswith(("#", "data:")) for value in links)
    assert len(page) < 200_000


def test_ids_are_unique_and_all_that_is_pointed_at_is_there(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    pointed = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert {url or href for url, href in pointed} <= set(ids)


def test_the_same_report_is_the_same_page(report: Report, page: str) -> None:
    assert render(report) == page


def test_the_page_shows_the_rows_of_the_tables(report: Report, page: str) -> None:
    table = parsed(page).find(".//section[@id='quality']//table")
    shown = [[words(cell) for cell in row.iter("td")] for row in table.iter("tr")][1:]
    expected = variant_table(report, report.artifacts).rows
    assert shown == [[" ".join(cell.split()) for cell in row] for row in expected]


def test_each_criterion_has_its_evidence_on_the_page(report: Report, page: str) -> None:
    section = parsed(page).find(".//section[@id='integrity']")
    summaries = [words(each) for each in section.iter("summary")]
    assert len(summaries) == len(report.audits) == 4
    for audit, summary_line in zip(report.audits, summaries, strict=True):
        assert summary_line == f"{audit.name}: {audit.grade.value}, {audit.tally}"
        for finding in audit.findings:
            assert all(words_of(point.text) in words(section) for point in finding.points)


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_the_verdicts_come_first(report: Report, page: str) -> None:
    header = parsed(page).find(".//header")
    sentences = [words(each) for each in header.iter("p")]
    assert sentences == [" ".join(each.split()) for each in summary(report)]


def test_the_page_has_its_date_and_its_command(report: Report) -> None:
    created = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    page = render(dataclasses.replace(report, created=created), Path("my page.html"))
    section = parsed(page).find(".//section[@id='model']")
    assert "2026-03-04 05:06 UTC" in words(section)
    command = shlex.split("".join(section.find("pre").itertext()))
    assert command[:2] == ["phi3quant", "report"]
    assert command[-2:] == ["-o", "my page.html"]


def test_the_glossary_and_the_devices_that_fit_are_folded(page: str) -> None:
    tree = parsed(page)
    for section in ("terms", "memory"):
        folded = tree.find(f".//section[@id='{section}']/details")
        assert folded is not None
        assert folded.get("open") is None
    table = tree.find(".//section[@id='memory']/details//table")
    assert "iPhone 15 Pro" in words(table)
    assert f"{len(known_devices())} devices" in words(tree.find(".//section[@id='memory']"))


def test_the_worst_token_is_marked_and_both_predictions_are_shown(
    report: Report, page: str
) -> None:
    section = parsed(page).find(".//section[@id='worst']")
    for row in report.artifacts:
        for window in row.worst:
            assert window.reference_top is not None
            assert token(window.reference_top) in "".join(section.itertext())
    marked = [words(each) for each in section.iter("mark")]
    assert marked
    assert set(marked) <= {window.token.strip() for row in report.artifacts for window in row.worst}


def test_a_path_is_taken_as_text_too(report: Report, tmp_path: Path) -> None:
    path = str(tmp_path / "report.html")
    assert write_page(path, report) == Path(path).stat().st_size
    check_page(path, overwrite=False)
    Path(path).write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="no report"):
        check_page(path, overwrite=False)
