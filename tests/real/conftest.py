"""The real model and what phi3quant makes of it; made once for all tests here."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from calib.corpus import load_corpus
from converters import LAYOUTS
from phi3quant.run.calibration import Calibration
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.tokenizer import load_tokenizer

_REAL = Path(__file__).resolve().parents[2] / "models" / "real"


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of the real model in FP16."""
    if not (_REAL / "config.json").is_file():
        pytest.fail("models/real is missing; `make real` puts it there")
    return _REAL


@pytest.fixture(scope="session")
def ids(real: Path) -> torch.Tensor:
    """Token ids of text that nothing was calibrated on, int64 [2, 64]."""
    text = str(load_corpus("general", "evaluation").documents[0])
    return torch.tensor(load_tokenizer(real).encode(text)[:128]).view(2, 64)


@pytest.fixture(scope="session")
def awq(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of AWQ at its quickest, by format; for tests of what runs its codes."""
    quick = Calibration(samples=4)
    recipe = Recipe(formats=tuple(LAYOUTS), calibration=quick, compensate=False)
    return quantize(real, tmp_path_factory.mktemp("awq") / "out", recipe).folders


@pytest.fixture(scope="session")
def rtn(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Plain rounding's folders, by format."""
    recipe = Recipe("rtn", formats=tuple(LAYOUTS))
    return quantize(real, tmp_path_factory.mktemp("rtn") / "out", recipe).folders


@pytest.fixture(scope="session")
def phi_4() -> Path:
    """Folder of Phi-4's tokenizer files."""
    return _vocabulary("phi-4")


@pytest.fixture(scope="session")
def phi_4_mini() -> Path:
    """Folder of Phi-4-mini's tokenizer files."""
    return _vocabulary("phi-4-mini")


def _vocabulary(name: str) -> Path:
    folder = _REAL.with_name(name)
    if not (folder / "tokenizer.json").is_file():
        pytest.fail(f"models/{name} is missing; `make real` puts it there")
    return folder
