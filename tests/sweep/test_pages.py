"""Results of a sweep as a page, as JUnit XML and as JSON."""

import dataclasses
import json
import re

import pytest
from junitparser import JUnitXml

from phi3quant.sweep.junit_report import as_junit
from phi3quant.sweep.page import render, write_page
from phi3quant.sweep.plan import Refusal
from phi3quant.sweep.require import parse_requirement
from phi3quant.sweep.results import Results
from phi3quant.sweep.tables import artifact_table, summary
from tests.reporting.pages import HOSTILE, parsed, words


@pytest.fixture(scope="module")
def judged(results: Results) -> Results:
    """Results with a winner, a limit that is too small, missed requirements and a refusal."""
    refused = Refusal("other", HOSTILE, f"no room {HOSTILE}")
    return dataclasses.replace(
        results,
        plan=dataclasses.replace(results.plan, refused=(refused,)),
        limits=(10**9, 1),
        requirements=(parse_requirement("kl<0.000001"),),
    )


def test_the_page_is_valid_and_has_the_plots_and_every_artifact(judged: Results) -> None:
    tree = parsed(render(judged))
    (section,) = tree.findall(".//section[@id='model-1']")
    assert [each.get("aria-label") for each in section.iter("{http://www.w3.org/2000/svg}svg")] == [
        "Mean KL against size of the weights",
        "Increase of perplexity against size of the weights",
    ]
    for row in judged.rows:
        assert row.label in words(section)
        assert str(row.folder) in words(section)


def test_text_from_outside_is_escaped(judged: Results) -> None:
    page = render(judged)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page


def test_ids_are_unique_and_nothing_comes_from_elsewhere(judged: Results) -> None:
    page = render(judged)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "://" not in page


def test_the_same_results_are_the_same_page(judged: Results) -> None:
    assert render(judged) == render(judged)


def test_the_page_is_written_into_the_folder(results: Results) -> None:
    assert write_page(results).read_text(encoding="utf-8") == render(results)


def test_the_table_marks_the_front(results: Results) -> None:
    (model,) = results.models
    table = artifact_table(model)
    starred = {int(row[0][:-1]) for row in table.rows if row[0].endswith("*")}
    assert starred == {*model.by_kl, *model.by_increase}
    assert {len(row) for row in table.rows} == {len(table.headings)}


def test_the_summary_names_winners_and_misses(judged: Results) -> None:
    lines = list(summary(judged))
    assert "no artifact is that small" in lines[1]
    assert any(line.startswith("Missed: ") and line.endswith("kl<0.000001") for line in lines)
    assert lines[-1] == "3 jobs done, 1 refused."


def test_junit_has_failures_for_misses_and_errors_for_missing_jobs(judged: Results) -> None:
    text = as_junit(judged)
    (suite,) = JUnitXml.fromstring(text.encode())
    assert (suite.tests, suite.failures, suite.errors) == (len(judged.rows) + 3, 2, 1)
    assert max(case.time for case in suite) > 0


def test_json_has_every_figure(judged: Results) -> None:
    values = json.loads(json.dumps(judged.as_json(), allow_nan=False))
    (model,) = values["models"]
    assert len(model["artifacts"]) == len(judged.rows)
    assert model["artifacts"][0]["kl_mean"] == judged.rows[0].artifact.figures.kl_mean
    assert [each["artifact"] is None for each in values["best_under"]] == [False, True]
    assert not values["passed"]
