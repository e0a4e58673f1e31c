"""A small model, and grids that take little time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.sweep.conduct import sweep
from phi3quant.sweep.grid import Grid, GridRecipe, ModelEntry
from phi3quant.sweep.plan import Limits
from phi3quant.sweep.results import Results
from tests.run.recipes import recipe

CPU = Limits("cpu")


@pytest.fixture(scope="session")
def model(checkpoint_folder: Callable[[str], Path]) -> Path:
    return checkpoint_folder("gqa")


@pytest.fixture(scope="session")
def text(prose: Path) -> EvaluationText:
    return EvaluationText(prose, length=64, max_tokens=512)


@pytest.fixture(scope="session")
def grid(model: Path, prose: Path, text: EvaluationText) -> Grid:
    """RTN in two formats and AWQ, on one model."""
    recipes = [
        recipe("rtn", prose, formats=("gguf", "compressed-tensors")),
        recipe("awq", prose),
        recipe("awq", prose, formats=("gguf",), gguf_type="Q4_K_M"),
    ]
    return Grid((ModelEntry(str(model)),), tuple(map(GridRecipe, recipes)), text)


@pytest.fixture(scope="session")
def results(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A sweep; its folder must not be changed."""
    return sweep(grid, tmp_path_factory.mktemp("sweep") / "out", CPU)
