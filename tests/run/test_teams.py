"""Teams give the bytes of one process, and continue when a member dies."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.conduct import Conduct
from phi3quant.run.pipeline import quantize
from tests.killing import hashes
from tests.models import make_model
from tests.run.recipes import recipe
from tests.teams import ThreadTeams


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and stripes that small models have several of."""
    torch.set_num_threads(1)
    monkeypatch.setattr("calib.batches.BATCH_TOKENS", 128)
    for module in ("calib.capture", "calib.sums"):
        monkeypatch.setattr(f"{module}.TILE", 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    make_model(folder, hidden_size=256, intermediate_size=256, num_attention_heads=8)
    return folder


CASES: Mapping[str, dict[str, object]] = {
    "awq": {},
    "gptq": {},
    "awq, asymmetric": {"scheme": QuantScheme(4, 64, symmetric=False)},
    "gptq, asymmetric": {"scheme": QuantScheme(4, 64, symmetric=False)},
    "awq, no compensation": {"compensate": False},
    "gptq, no compensation": {"compensate": False},
    "awq, Q4_K_M": {"formats": ("gguf",), "gguf_type": "Q4_K_M"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_team_gives_the_bytes_of_one_process(
    case: str, model: Path, prose: Path, tmp_path: Path
) -> None:
    method = case.partition(",")[0]
    wanted = recipe(method, prose, **CASES[case])
    # Nine windows in batches of two, one of them held back.
    calibration = dataclasses.replace(wanted.calibration, samples=10)
    wanted = dataclasses.replace(wanted, calibration=calibration)
    alone = quantize(model, tmp_path / "alone", wanted)
    for size in (2, 3, 7):
        out = tmp_path / str(size)
        shared = quantize(model, out, wanted, conduct=Conduct(teams=ThreadTeams(size)))
        assert hashes(out) == hashes(tmp_path / "alone"), size
        assert shared.blocks == alone.blocks
