import json
import math
from pathlib import Path

import jsonschema
import pytest
from junitparser import JUnitXml

from phi3quant.evaluation.metrics import WorstWindow
from phi3quant.evaluation.paired_statistics import PairedMean
from phi3quant.gating.check_report import CheckReport, Finding
from phi3quant.gating.gate import Gate, Verdict
from phi3quant.gating.gate_report import METRICS, annotations, as_json, as_junit, as_markdown

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "check.schema.json").read_text(encoding="utf-8")
)
HOSTILE = 'a | b `c` <&"> \x00\x1b[31m\nnext % line'


def report(verdict: Verdict = Verdict.PASS, *, tolerant: bool = False) -> CheckReport:
    gate = Gate("drift", "the baseline", 0.005, PairedMean(0.0, math.nan, 1))
    return CheckReport(
        "out",
        "b.baseline",
        [Finding("finite", Verdict.PASS, "fine"), Finding("drift", verdict, HOSTILE)],
        [gate],
        {**dict.fromkeys(METRICS, 1.0), "tokens": 10, "not_finite": 0, "ratio_95": [1.0, None]},
        [WorstWindow(3, math.inf, HOSTILE, "x")],
        [HOSTILE],
        tolerant,
    )


def unscored() -> CheckReport:
    return CheckReport("out", "b", [Finding("comparable", Verdict.NOT_COMPARABLE, "other text")])


@pytest.mark.parametrize("made", [*map(report, Verdict), unscored()])
def test_json_is_of_the_published_schema(made: CheckReport) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = json.dumps(as_json(made), allow_nan=False)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**as_json(report()), "more": 1}, SCHEMA)


@pytest.mark.parametrize(
    ("verdict", "code", "failures", "errors"),
    [
        (Verdict.PASS, 0, 0, 0),
        (Verdict.FAIL, 1, 1, 0),
        (Verdict.UNDERPOWERED, 3, 0, 1),
        (Verdict.NOT_COMPARABLE, 3, 0, 1),
    ],
)
def test_junit_has_a_case_per_check_and_metric(
    verdict: Verdict, code: int, failures: int, errors: int, tmp_path: Path
) -> None:
    made = report(verdict)
    assert made.exit_code == code
    (tmp_path / "gate.xml").write_text(as_junit(made), encoding="utf-8")
    (suite,) = JUnitXml.fromfile(str(tmp_path / "gate.xml"))
    cases = list(suite)
    assert len(cases) == suite.tests == 2 + len(METRICS)
    assert (suite.failures, suite.errors) == (failures, errors)
    found = [result for case in cases for result in case.result]
    assert len(found) == failures + errors
    assert all("next % line" in result.message for result in found)


def test_what_is_tolerated_is_skipped_not_failed(tmp_path: Path) -> None:
    made = report(Verdict.UNDERPOWERED, tolerant=True)
    assert made.exit_code == 0
    (tmp_path / "gate.xml").write_text(as_junit(made), encoding="utf-8")
    (suite,) = JUnitXml.fromfile(str(tmp_path / "gate.xml"))
    assert (suite.skipped, suite.failures, suite.errors) == (1, 0, 0)
    assert annotations(made)[0].startswith("::warning title=phi3quant check, drift::")


def test_markdown_keeps_its_tables_whatever_the_text_holds() -> None:
    lines = as_markdown(report(Verdict.FAIL)).splitlines()
    assert lines[0].startswith("### ❌")
    rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert {row.count("|") for row in rows} == {3, 4}
    assert all(row.endswith("|") for row in rows)


def test_annotations_stay_on_one_line() -> None:
    lines = annotations(report(Verdict.FAIL))
    assert lines[0].startswith("::error title=phi3quant check, drift::a | b")
    assert lines[0].endswith("%0Anext %25 line")
    assert all("\n" not in line for line in lines)
    assert annotations(unscored()) == ["::error title=phi3quant check, comparable::other text"]
