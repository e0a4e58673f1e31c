import math

import pytest
import torch

from phi3quant.evaluation.paired_statistics import PairedMean, paired_mean
from phi3quant.gating.gate import DEFAULT_DRIFT, Gate, Verdict, default_budget


def gate(increase: float, error: float, limit: float = 0.005, windows: int = 40) -> Gate:
    return Gate("drift", "the baseline", limit, PairedMean(math.log1p(increase), error, windows))


@pytest.mark.parametrize(
    ("increase", "error", "verdict"),
    [
        (0.0, 0.001, Verdict.PASS),
        (-0.1, 0.001, Verdict.PASS),
        (0.004, 0.001, Verdict.PASS),  # surely worse, within the limit
        (0.02, 0.001, Verdict.FAIL),
        (0.02, 0.009, Verdict.FAIL),  # sure in spite of the noise
        (0.0, 0.002, Verdict.UNDERPOWERED),  # 0.70 % could have been seen, no less
        (0.02, 0.02, Verdict.UNDERPOWERED),  # above the limit by chance, perhaps
        (0.0, math.nan, Verdict.UNDERPOWERED),
        (math.inf, math.inf, Verdict.UNDERPOWERED),
    ],
)
def test_a_gate_fails_only_what_is_surely_worse_and_by_too_much(
    increase: float, error: float, verdict: Verdict
) -> None:
    assert gate(increase, error).verdict is verdict


def test_underpowered_says_what_could_have_been_seen() -> None:
    assert "would show an increase of 0.70%" in str(gate(0.0, 0.002))


def test_what_must_not_be_missed_fails_where_it_cannot_be_excluded() -> None:
    measured = PairedMean(0.004, 0.001, 40)
    assert Gate("divergence", "", 0.005, measured, excludes=True).verdict is Verdict.FAIL
    assert Gate("divergence", "", 0.010, measured, excludes=True).verdict is Verdict.PASS
    equal = PairedMean(0.0, 0.0, 40)
    assert Gate("divergence", "", 0.0, equal, excludes=True).verdict is Verdict.PASS


def test_a_limit_below_half_a_percent_is_stricter_without_asking_for_more_text() -> None:
    assert gate(0.004, 0.001, limit=0.002).verdict is Verdict.FAIL
    assert gate(0.001, 0.001, limit=0.002).verdict is Verdict.PASS
    assert gate(0.004, 0.001, limit=0.0).verdict is Verdict.FAIL


def test_what_creeps_within_the_limit_is_known() -> None:
    assert gate(0.004, 0.001).creeping
    assert not gate(0.001, 0.001).creeping
    assert not gate(0.02, 0.001).creeping


# Measured between two AWQ artifacts of the real model whose calibration windows differ, on the
# bundled text, where it is noisier than on WikiText-2: standard deviations of a window's mean in
# nats, and the correlation with the next window's (of losses on WikiText-2, where it is higher).
LOSS_NOISE, LOSS_CORRELATION = 0.020, 0.35
DIVERGENCE_NOISE = 0.0066
WINDOWS = 39  # of 512: 20,000 tokens


def series(generator: torch.Generator, noise: float, correlation: float) -> torch.Tensor:
    """Window means [windows, 1] of differences without an effect."""
    means = torch.randn(WINDOWS, 1, generator=generator, dtype=torch.float64)
    for at in range(1, WINDOWS):
        means[at] = correlation * means[at - 1] + math.sqrt(1 - correlation**2) * means[at]
    return noise * means


def share_failed(effect: float, trials: int = 1000) -> float:
    """Share of trials in which a measure of drift fails at the default limit; truth: ``effect``."""
    generator = torch.Generator().manual_seed(5)
    shift, failed = math.log1p(effect), 0
    for _ in range(trials):
        losses = paired_mean(shift + series(generator, LOSS_NOISE, LOSS_CORRELATION))
        divergence = paired_mean(shift + series(generator, DIVERGENCE_NOISE, 0.0))
        gates = (
            Gate("drift", "the baseline", DEFAULT_DRIFT, losses),
            Gate("divergence", "the baseline", DEFAULT_DRIFT, divergence, excludes=True),
        )
        failed += any(gate.verdict is Verdict.FAIL for gate in gates)
    return failed / trials


def test_noise_as_measured_fails_one_run_of_twenty_at_most() -> None:
    assert share_failed(0.0) <= 0.05


@pytest.mark.parametrize("effect", [0.005, 0.0075])
def test_a_drift_of_half_a_percent_is_caught_nine_times_in_ten(effect: float) -> None:
    assert share_failed(effect) >= 0.9


def test_such_noise_leaves_the_divergence_powered_where_the_losses_are_not() -> None:
    inflated = LOSS_NOISE * math.sqrt((1 + LOSS_CORRELATION) / (1 - LOSS_CORRELATION))
    losses, divergence = (
        PairedMean(0.0, noise / math.sqrt(WINDOWS), WINDOWS)
        for noise in (inflated, DIVERGENCE_NOISE)
    )
    assert divergence.detectable < DEFAULT_DRIFT < losses.detectable


@pytest.mark.parametrize(
    ("bits", "budget"), [(16.0, 0.005), (8.5, 0.01), (4.5, 0.15), (4.2, 0.15), (2.1, 0.5)]
)
def test_the_default_budget_goes_by_bits(bits: float, budget: float) -> None:
    assert default_budget(bits) == budget
