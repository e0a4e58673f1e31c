"""What a report says, and that its page is a page."""

import dataclasses
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3quant.disk.output import MANIFEST
from phi3quant.estimating.devices import known_devices
from phi3quant.estimating.estimate import Plan, estimate
from phi3quant.estimating.members import describe
from phi3quant.evaluation.evaluate import Artifact, EvaluationText, evaluate
from phi3quant.evaluation.metrics import WorstWindow, figures
from phi3quant.reporting.divergence import QUANTILES, THRESHOLDS, divergence
from phi3quant.reporting.error_map import error_maps
from phi3quant.reporting.measured import from_manifests
from phi3quant.reporting.outlook import outlooks
from phi3quant.reporting.page import render
from phi3quant.reporting.plots import draw_errors
from phi3quant.reporting.provenance_table import provenance_table
from phi3quant.reporting.report import Report, make_report
from phi3quant.reporting.summary import summary
from phi3quant.reporting.tables import error_table, variant_table
from phi3quant.reporting.variant import Variant
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Calibration, Recipe
from phi3quant.visible import visible

HOSTILE = '<script>alert(1)</script> & "q" \x1b[31m\x00 $\\alpha$ \u202egnp {{ 7 * 7 }}'


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Callable[[str], Path], prose: Path
) -> tuple[Path, Path, EvaluationText]:
    """The original, a run with three formats, and what to score on."""
    folder = tmp_path_factory.mktemp("made") / "out"
    recipe = Recipe(
        formats=("compressed-tensors", "gguf", "onnx"),
        calibration=Calibration(prose, samples=8, length=64),
    )
    quantize(checkpoint_folder("gqa"), folder, recipe)
    return checkpoint_folder("gqa"), folder, EvaluationText(prose, length=64)


@pytest.fixture(scope="module")
def report(made: tuple[Path, Path, EvaluationText]) -> Report:
    original, folder, text = made
    return make_report([folder], str(original), text)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def parsed(page: str) -> Any:
    """The page's elements; raises for whatever isn't HTML as it is specified."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def words(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def test_the_page_is_valid_and_has_every_table_and_figure(page: str) -> None:
    tree = parsed(page)
    assert {section.get("id") for section in tree.iter("section")} >= {
        *("quality", "divergence", "errors", "worst", "memory", "provenance"),
    }
    drawings = [each for each in tree.iter() if str(each.tag).endswith("}svg")]
    assert len(drawings) == 3
    assert all(each.get("viewBox") and each.get("aria-label") for each in drawings)
    labels = [table.get("aria-label") for table in tree.iter("table")]
    assert labels[:2] == ["Quality and size", "Divergence over the tokens"]
    assert labels[3:5] == ["Memory at each context", "Devices"]
    assert len(labels) == 2 + 1 + 2 + 3
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


def test_figures_are_those_of_the_evaluation(
    report: Report, made: tuple[Path, Path, EvaluationText]
) -> None:
    original, folder, text = made
    scored = evaluate([original, folder, folder / "gguf"], text)
    for row, comparison in zip(report.measurement.rows, scored.comparisons[1:], strict=False):
        assert row.figures == figures(comparison, reference=False)
    kl = scored.comparisons[1].kl.numpy().ravel()
    found = report.measurement.rows[0].divergence
    assert found is not None
    assert found.quantiles[1:-1] == pytest.approx(np.quantile(kl, QUANTILES[1:-1]), rel=1e-9)
    assert [row.variant for row in report.measurement.rows] == [0, 1, 2, 2]
    assert [row.name.removeprefix(str(folder)) for row in report.measurement.rows] == [
        *("", "/gguf", "/onnx (level 4)", "/onnx (level 0)"),
    ]


def test_formats_of_one_run_share_one_map_of_errors(report: Report) -> None:
    (found,) = report.error_maps
    assert len(found.names) == 3
    blocks = report.variants[0].manifest["blocks"]
    assert found.errors[1][0] == blocks[1]["linears"]["qkv_proj"]["error"]
    assert found.relative[1][-1] == pytest.approx(blocks[1]["error_ratio"])


def test_the_page_shows_the_rows_of_the_tables(report: Report, page: str) -> None:
    table = next(iter(parsed(page).iter("table")))
    shown = [[words(cell) for cell in row.iter("td")] for row in table.iter("tr")][1:]
    expected = variant_table(report).rows
    assert shown == [[" ".join(cell.split()) for cell in row] for row in expected]


@given(st.lists(st.floats(1e-9, 99.0), min_size=1, max_size=50))
def test_shares_above_are_counts(values: list[float]) -> None:
    found = divergence(torch.tensor(values, dtype=torch.float64))
    kept = np.array(values)
    assert list(found.above) == pytest.approx([(kept > at).mean() for at in THRESHOLDS])
    assert found.quantiles[-1] == max(values)


def test_nan_is_above_every_threshold_and_has_no_quantile() -> None:
    found = divergence(torch.tensor([math.nan, 1e-9], dtype=torch.float64))
    assert set(found.above) == {0.5}
    assert found.mean is None
    assert found.quantiles[-1] is None


def renamed(report: Report, name: str) -> Report:
    """The report as if its first variant and its worst window were called so."""
    first = dataclasses.replace(report.variants[0], name=name)
    row = report.measurement.rows[0]
    worst = [WorstWindow(0, 2.0, f"text {name}", name)]
    row = dataclasses.replace(row, name=name, worst=worst)
    rows = [row, *report.measurement.rows[1:]]
    return dataclasses.replace(
        report,
        variants=[first, *report.variants[1:]],
        measurement=dataclasses.replace(report.measurement, rows=rows),
    )


def test_text_from_outside_stays_text(report: Report) -> None:
    page = render(renamed(report, HOSTILE))
    tree = parsed(page)
    assert not list(tree.iter("script"))
    quoted = next(iter(tree.iter("blockquote")))
    assert "".join(quoted.itertext()) == f"text {visible(HOSTILE)}"
    assert not set("\x00\x1b\u202e") & set(page)
    assert "{{ 7 * 7 }}" in page


Json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["linears", "qkv_proj", "error", "error_rtn", "ratio", "artifact", "name", "text"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["blocks", "verification", "source", "recipe", "tools"]), Json, max_size=4
    )
)
def test_any_manifest_can_be_reported_on(report: Report, manifest: dict[str, Any]) -> None:
    opened: Artifact = dataclasses.replace(report.variants[0].opened, manifest=manifest)
    variant: Variant = dataclasses.replace(report.variants[0], opened=opened)
    maps = error_maps([variant])
    told = Report([variant], from_manifests([variant], "not asked for"), maps, outlooks([variant]))
    assert len(variant_table(told).rows) >= 1
    assert provenance_table(variant).rows
    for each in maps:
        assert len(error_table(each).rows) == len(manifest["blocks"])
    summary(told)


def test_memory_and_verdicts_are_those_of_the_estimate(
    report: Report, made: tuple[Path, Path, EvaluationText]
) -> None:
    original, _, _ = made
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
    found = dataclasses.replace(report.measurement, rows=[broken])
    assert "is broken" in summary(dataclasses.replace(report, measurement=found))[0]


def test_without_matplotlib_the_extra_is_named(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Exception, match=r"phi3quant\[report\]"):
        render(report)


def test_an_original_that_is_not_here_is_told_and_nothing_scored(
    made: tuple[Path, Path, EvaluationText], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, text = made
    monkeypatch.chdir(tmp_path)
    unscored = make_report([folder / "gguf"], text=text)
    assert "--reference" in unscored.measurement.unscored
    assert not unscored.measurement.rows[0].figures
    tree = parsed(render(unscored))
    warning = tree.find(".//p[@class='warning']")
    assert unscored.measurement.unscored in words(warning)
    assert tree.find(".//section[@id='divergence']") is None


def test_another_model_of_that_name_is_not_taken_for_the_original(
    made: tuple[Path, Path, EvaluationText],
    checkpoint_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, folder, text = made
    (tmp_path / original.resolve().name).symlink_to(checkpoint_folder("mha"))
    monkeypatch.chdir(tmp_path)
    found = make_report([folder / "gguf"], text=text).measurement
    assert found.unscored.startswith(f"{original.resolve().name} has other weights")


def test_a_folder_without_its_manifest_says_so(
    made: tuple[Path, Path, EvaluationText], tmp_path: Path
) -> None:
    original, folder, text = made
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != MANIFEST:
            (bare / path.name).symlink_to(path)
    found = make_report([bare], str(original), text)
    assert provenance_table(found.variants[0]).note.startswith("It carries no manifest")
    assert found.measurement.rows[0].figures["ratio"] > 0
    assert not found.error_maps
    unscored = make_report([bare], text=text)
    assert "doesn't say what it was made from" in unscored.measurement.unscored


def test_blocks_that_the_model_does_not_have_are_not_drawn(report: Report) -> None:
    first = report.variants[0]
    blocks = first.manifest["blocks"]
    assert len(error_maps([first])) == 1
    for wrong in (blocks * 10_000, blocks[1:], list[Any]()):
        opened = dataclasses.replace(
            first.opened, manifest={**first.opened.manifest, "blocks": wrong}
        )
        assert not error_maps([dataclasses.replace(first, opened=opened)])


@pytest.mark.parametrize("value", [None, 0.0, -1.0, 1e-300, 1e300])
def test_odd_errors_are_drawn_all_the_same(report: Report, value: float | None) -> None:
    (found,) = report.error_maps
    odd = [[value, *found.errors[0][1:]], [value] * len(found.kinds)]
    for rows in (odd, odd[1:]):
        other = dataclasses.replace(found, errors=rows, relative=rows)
        assert draw_errors("odd", other).endswith("</svg>")
