"""Tables and verdicts of a report."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from phi3quant.estimating.devices import Fit, known_devices
from phi3quant.estimating.estimate import Plan, estimate
from phi3quant.estimating.members import describe
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.reporting.memory_tables import device_table
from phi3quant.reporting.model_table import model_table
from phi3quant.reporting.outlook import Outlook
from phi3quant.reporting.report import Report
from phi3quant.reporting.summary import summary
from phi3quant.reporting.tables import variant_table, ways_table
from phi3quant.reporting.wording import TOO_FEW, change, change_interval, ends


def test_memory_and_verdicts_are_those_of_the_estimate(
    report: Report, quantized: tuple[Path, Path, EvaluationText]
) -> None:
    original, _, _ = quantized
    expected = estimate(describe(str(original)), Plan(gguf_type="q4_0"), known_devices())
    gguf, onnx = report.outlooks
    assert [each.needed for each in gguf.memory] == [each.needed for each in expected.memory]
    assert [(each.device.name, each.verdict) for each in gguf.devices] == [
        (each.device.name, each.verdict) for each in expected.verdicts
    ]
    assert {each.kv_type for each in onnx.memory} == {"f32"}


def test_a_model_that_gives_nan_is_called_broken(report: Report) -> None:
    row = report.measurement.rows[0]
    broken = dataclasses.replace(row, figures={**row.figures, "not_finite": 3, "ratio": None})
    measurement = dataclasses.replace(report.measurement, rows=[broken])
    assert "is broken" in summary(dataclasses.replace(report, measurement=measurement))[0]


def with_first_row(report: Report, **changes: Any) -> Report:
    """The report with a single row, changed."""
    row = dataclasses.replace(report.measurement.rows[0], **changes)
    measurement = dataclasses.replace(report.measurement, rows=[row])
    return dataclasses.replace(report, measurement=measurement)


def test_a_verdict_has_loss_interval_and_size(report: Report) -> None:
    row = report.measurement.rows[0]
    figures = {**row.figures, "ratio": 1.044, "ratio_95": [1.031, 1.057]}
    changed = with_first_row(report, figures=figures, windows=20)
    original = 3 * report.variants[0].inspection.weight_bytes
    measurement = dataclasses.replace(changed.measurement, reference_bytes=original)
    (line,) = summary(dataclasses.replace(changed, measurement=measurement))
    plain = line.replace("\N{NO-BREAK SPACE}", " ")
    assert ": +4.4 % perplexity (95 % interval +3.1 to +5.7 %), 33 % of the size (" in plain


def test_an_interval_around_no_change_shows_no_difference(report: Report) -> None:
    figures = {**report.measurement.rows[0].figures, "ratio": 1.001, "ratio_95": [0.99, 1.01]}
    (line,) = summary(with_first_row(report, figures=figures, windows=20))
    assert "no difference shown" in line


def test_too_few_windows_are_named_in_verdict_and_table(report: Report) -> None:
    few = with_first_row(report, windows=7)
    text = {**few.measurement.text, "windows": 7}
    few = dataclasses.replace(few, measurement=dataclasses.replace(few.measurement, text=text))
    assert "(too few windows to tell)" in summary(few)[0]
    table = variant_table(few)
    assert TOO_FEW in table.rows[-1]
    assert "at least 8 windows; this text has 7" in table.note
    # A single window has no interval at all, for the same reason.
    assert ends([None, None], 1) == TOO_FEW


def test_only_variants_that_look_different_are_ranked(report: Report) -> None:
    rows = report.artifacts

    def lines(*ratios: float) -> list[str]:
        changed = [
            dataclasses.replace(row, figures={"ratio": ratio}, windows=20)
            for row, ratio in zip(rows, ratios, strict=True)
        ]
        measurement = dataclasses.replace(report.measurement, rows=changed)
        return summary(dataclasses.replace(report, measurement=measurement))

    assert ["closest" in line for line in lines(1.3, 1.1, 1.2)] == [False, True, False]
    assert not any("closest" in line for line in lines(1.3, 1.1, 1.10001))
    assert sum("smallest" in line for line in lines(1.3, 1.1, 1.2)) == 1


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(1.0437, "+4.4 %"), (1.00302, "+0.30 %"), (0.99999999, "+0.00 %"), (13.5, "+1,250 %")],
)
def test_changes_have_two_digits(ratio: float, shown: str) -> None:
    assert change(ratio).replace("\N{NO-BREAK SPACE}", " ") == shown
    assert change_interval((ratio, ratio)).split(" to ")[0] == shown.split(" ", maxsplit=1)[0]


def test_ways_of_running_have_a_table_apart_from_artifacts(report: Report) -> None:
    ways = ways_table(report)
    assert ways is not None
    assert [row[0].rsplit(" (")[-1] for row in ways.rows] == ["level 4)", "level 0)"]
    artifacts = variant_table(report, report.artifacts).rows[1:]
    assert [row[0] for row in artifacts] == [variant.name for variant in report.variants]
    assert ways_table(with_first_row(report)) is None


def test_the_model_has_its_facts(report: Report) -> None:
    (row,) = model_table(report).rows
    config = report.variants[0].config
    assert row[0] == report.measurement.reference_name
    assert row[2] == str(config.num_hidden_layers)
    assert row[-1] == f"{config.vocab_size:,}"
    other = dataclasses.replace(config, vocab_size=config.vocab_size + 1)
    stored: Any = report.variants[0].opened.model
    model = dataclasses.replace(stored, config=other)
    opened = dataclasses.replace(report.variants[0].opened, model=model)
    variant = dataclasses.replace(report.variants[0], opened=opened)
    two = dataclasses.replace(report, variants=[variant, *report.variants[1:]])
    assert [row[0] for row in model_table(two).rows] == [
        variant.name,
        ", ".join(each.name for each in report.variants[1:]),
    ]


def test_devices_are_split_by_whether_everything_fits(report: Report) -> None:
    first = report.outlooks[0]
    small = dataclasses.replace(first.devices[0], verdict=Fit.NO, largest_context=0)
    tight: list[Outlook] = [
        dataclasses.replace(first, devices=[small, *first.devices[1:]]),
        *report.outlooks[1:],
    ]
    fits, others, every = (device_table(tight, fits=each) for each in (True, False, None))
    assert fits is not None
    assert others is not None
    assert every is not None
    assert [row[0] for row in others.rows] == ["iPhone 14"]
    assert len(fits.rows) == len(known_devices()) - 1
    assert len(every.rows) == len(known_devices())
    assert device_table(report.outlooks, fits=False) is None
    assert device_table([]) is None
