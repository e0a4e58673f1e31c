"""The gate on a real model: planted faults, legitimate differences, and what a token costs."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.gating.baseline import read_baseline
from phi3quant.gating.baselines import create_baseline
from phi3quant.gating.check import check
from phi3quant.gating.gate import Verdict
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.calibration import Calibration
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.faults import FAULTS, Plant, with_config

REAL_FAULTS: Mapping[str, Plant] = {
    **FAULTS,
    # This model's base is 100,000, and 10,000 is what tools fall back on.
    "wrong RoPE base": lambda good, bad: with_config(good, bad, {"rope_theta": 1e4}),
}
# 8 windows, a fifth of the 20,000 tokens on which faults must show.
TOKENS = EvaluationText(max_tokens=4096)
FOUR_BITS = Recipe("rtn", QuantScheme(4, 32, symmetric=False))


@pytest.fixture(scope="module")
def windowed(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model with a sliding window, which it lacks, so that one can go missing."""
    folder = tmp_path_factory.mktemp("windowed") / "model"
    folder.mkdir()
    for file in real.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    config = json.loads((real / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": 128}))
    return folder


@pytest.fixture(scope="module")
def good(windowed: Path) -> Path:
    quantize(windowed, windowed.parent / "good", FOUR_BITS)
    return windowed.parent / "good"


@pytest.fixture(scope="module")
def baseline(windowed: Path, good: Path) -> Path:
    path = windowed.parent / "good.baseline"
    made = create_baseline(good, path, reference=windowed, text=TOKENS)
    assert made.nbytes < 300 * made.baseline.tokens
    return path


@pytest.mark.parametrize("fault", REAL_FAULTS)
def test_a_planted_fault_is_caught_on_4000_tokens(
    fault: str, good: Path, baseline: Path, tmp_path: Path
) -> None:
    report = check(REAL_FAULTS[fault](good, tmp_path / "bad"), baseline)
    assert report.exit_code == 1
    measured = {gate.name: gate for gate in report.gates}
    # It was trained without a window, so that losing one makes it better at the text.
    if fault != "missing sliding window":
        assert measured["drift"].verdict is Verdict.FAIL, str(measured["drift"])
    assert measured["divergence"].verdict is Verdict.FAIL, str(measured["divergence"])


def test_other_calibration_windows_raise_no_alarm(real: Path, tmp_path: Path) -> None:
    """The legitimate difference: AWQ whose statistics come from other windows of the same text."""
    for seed in (0, 1):
        calibration = Calibration(samples=16, length=256, seed=seed)
        recipe = Recipe("awq", calibration=calibration, compensate=False)
        quantize(real, tmp_path / str(seed), recipe)
    create_baseline(tmp_path / "0", tmp_path / "b", reference=real)
    report = check(tmp_path / "1", tmp_path / "b")
    assert report.verdict is not Verdict.FAIL, [str(gate) for gate in report.gates]
    _, drift, divergence = report.gates
    # Without the noise of the targets, the same text shows smaller differences; how much smaller
    # depends on how far the two calibrations lie apart.
    assert divergence.measured.error < drift.measured.error


def test_the_baseline_of_a_large_vocabulary_is_small(baseline: Path) -> None:
    found = read_baseline(baseline)
    assert int(found.top.ids.max()) > 30_000
    assert baseline.stat().st_size < 250 * found.tokens
