"""Figures of a report, and the originals that they are compared with."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.disk.output import MANIFEST
from phi3quant.evaluation.evaluate import EvaluationText, evaluate
from phi3quant.evaluation.metrics import figures
from phi3quant.reporting.divergence import QUANTILES, THRESHOLDS, divergence
from phi3quant.reporting.error_map import error_maps
from phi3quant.reporting.page import render
from phi3quant.reporting.provenance_table import provenance_table
from phi3quant.reporting.report import Report, make_report
from tests.reporting.pages import parsed, words


def test_figures_are_those_of_the_evaluation(
    report: Report, quantized: tuple[Path, Path, EvaluationText]
) -> None:
    original, folder, text = quantized
    scored = evaluate([original, folder, folder / "gguf"], text)
    for row, comparison in zip(report.measurement.rows, scored.comparisons[1:], strict=False):
        assert row.figures == figures(comparison, reference=False)
    kl = scored.comparisons[1].kl.numpy().ravel()
    over_tokens = report.measurement.rows[0].divergence
    assert over_tokens is not None
    assert over_tokens.quantiles[1:-1] == pytest.approx(np.quantile(kl, QUANTILES[1:-1]), rel=1e-9)
    assert [row.variant for row in report.measurement.rows] == [0, 1, 2, 2]
    assert [row.name.removeprefix(str(folder)) for row in report.measurement.rows] == [
        *("", "/gguf", "/onnx (level 4)", "/onnx (level 0)"),
    ]


def test_formats_of_one_run_share_one_map_of_errors(report: Report) -> None:
    (record,) = report.error_maps
    assert len(record.names) == 3
    blocks = report.variants[0].manifest["blocks"]
    assert record.errors[1][0] == blocks[1]["linears"]["qkv_proj"]["error"]
    assert record.relative[1][-1] == pytest.approx(blocks[1]["error_ratio"])


@given(st.lists(st.floats(1e-9, 99.0), min_size=1, max_size=50))
def test_shares_above_are_counts(values: list[float]) -> None:
    over_tokens = divergence(torch.tensor(values, dtype=torch.float64))
    kept = np.array(values)
    assert list(over_tokens.above) == pytest.approx([(kept > at).mean() for at in THRESHOLDS])
    assert over_tokens.quantiles[-1] == max(values)


def test_nan_is_above_every_threshold_and_has_no_quantile() -> None:
    over_tokens = divergence(torch.tensor([math.nan, 1e-9], dtype=torch.float64))
    assert set(over_tokens.above) == {0.5}
    assert over_tokens.mean is None
    assert over_tokens.quantiles[-1] is None


def test_a_missing_original_is_named_and_nothing_is_scored(
    quantized: tuple[Path, Path, EvaluationText], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, text = quantized
    monkeypatch.chdir(tmp_path)
    unscored = make_report([folder / "gguf"], text=text)
    assert "give its path with reference" in unscored.measurement.unscored
    assert not unscored.measurement.rows[0].figures
    tree = parsed(render(unscored))
    warning = tree.find(".//p[@class='warning']")
    assert unscored.measurement.unscored in words(warning)
    assert tree.find(".//section[@id='divergence']") is None


def test_another_model_of_that_name_is_not_taken_for_the_original(
    quantized: tuple[Path, Path, EvaluationText],
    checkpoint_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, folder, text = quantized
    (tmp_path / original.resolve().name).symlink_to(checkpoint_folder("mha"))
    monkeypatch.chdir(tmp_path)
    measurement = make_report([folder / "gguf"], text=text).measurement
    assert measurement.unscored.startswith(f"{original.resolve().name} has other weights")


def test_a_missing_manifest_is_reported(
    quantized: tuple[Path, Path, EvaluationText], tmp_path: Path
) -> None:
    original, folder, text = quantized
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != MANIFEST:
            (bare / path.name).symlink_to(path)
    scored = make_report([bare], str(original), text)
    assert provenance_table(scored.variants[0]).note.startswith("It has no manifest")
    assert scored.measurement.rows[0].figures["ratio"] > 0
    assert not scored.error_maps
    unscored = make_report([bare], text=text)
    assert "doesn't record its source" in unscored.measurement.unscored


def test_blocks_that_the_model_does_not_have_are_not_drawn(report: Report) -> None:
    first = report.variants[0]
    blocks = first.manifest["blocks"]
    assert len(error_maps([first])) == 1
    for wrong in (blocks * 10_000, blocks[1:], list[Any]()):
        opened = dataclasses.replace(
            first.opened, manifest={**first.opened.manifest, "blocks": wrong}
        )
        assert not error_maps([dataclasses.replace(first, opened=opened)])
