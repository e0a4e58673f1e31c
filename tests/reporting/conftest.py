"""A small model, quantized and reported on once for all tests of reports."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.reporting.page import render
from phi3quant.reporting.report import Report, make_report
from phi3quant.run.calibration import Calibration
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe


@pytest.fixture(scope="session")
def quantized(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Callable[[str], Path], prose: Path
) -> tuple[Path, Path, EvaluationText]:
    """The original, a run with three formats, and the evaluation text."""
    folder = tmp_path_factory.mktemp("quantized") / "out"
    recipe = Recipe(
        formats=("compressed-tensors", "gguf", "onnx"),
        calibration=Calibration(prose, samples=8, length=64),
    )
    quantize(checkpoint_folder("gqa"), folder, recipe)
    return checkpoint_folder("gqa"), folder, EvaluationText(prose, length=64)


@pytest.fixture(scope="session")
def report(quantized: tuple[Path, Path, EvaluationText]) -> Report:
    original, folder, text = quantized
    return make_report([folder], str(original), text)


@pytest.fixture(scope="session")
def page(report: Report) -> str:
    return render(report)
