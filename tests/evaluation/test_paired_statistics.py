"""The statistics of paired differences, by simulation where no formula can be asked."""

import math

import pytest
import torch

from phi3quant.evaluation.paired_statistics import PairedMean, paired_mean, student_quantile

TRIALS = 1000
TARGETS = 63


def noise(
    generator: torch.Generator,
    windows: int,
    *,
    within: float = 0.6,
    between: float = 0.3,
    neighbours: float = 0.35,
    heavy: bool = True,
) -> torch.Tensor:
    """Differences without any effect, as quantized models show them: FP64 [TRIALS, windows, n].

    Args:
        generator: of the chance.
        windows: in each trial.
        within: correlation of a token with the next one of its window.
        between: share of the variance that all tokens of a window have in common.
        neighbours: correlation of that common part with the next window's, as within an article;
            0.35 is what the real model shows on WikiText-2.
        heavy: a few tokens differ far more than most.
    """
    shape = (TRIALS, windows, TARGETS)
    steps = torch.randn(shape, generator=generator, dtype=torch.float64)
    if heavy:
        steps *= torch.exp(torch.randn(shape, generator=generator, dtype=torch.float64))
        steps /= math.exp(1)  # the root mean square of the factor above
    tokens = torch.empty(shape, dtype=torch.float64)
    tokens[..., 0] = steps[..., 0]
    for at in range(1, TARGETS):
        tokens[..., at] = within * tokens[..., at - 1] + math.sqrt(1 - within**2) * steps[..., at]
    common = torch.randn(TRIALS, windows, 1, generator=generator, dtype=torch.float64)
    for at in range(1, windows):
        common[:, at] = (
            neighbours * common[:, at - 1] + math.sqrt(1 - neighbours**2) * common[:, at]
        )
    return math.sqrt(1 - between) * tokens + math.sqrt(between) * common


def share_noticed(trials: torch.Tensor) -> float:
    """Share of the trials in which the interval's lower end lies above 1."""
    return sum(paired_mean(trial).interval[0] > 1 for trial in trials) / len(trials)


# The promised rate is 5 %, and 2.5 % without correlation; 1000 trials add noise.
ALARMS = 0.05


@pytest.mark.parametrize("windows", [4, 8, 16, 39])
@pytest.mark.parametrize(
    "kind",
    [{}, {"within": 0.0, "between": 0.0}, {"within": 0.9}, {"heavy": False}, {"between": 0.9}],
)
def test_noise_raises_the_alarm_no_more_often_than_promised(
    kind: dict[str, float], windows: int
) -> None:
    generator = torch.Generator().manual_seed(windows)
    assert share_noticed(noise(generator, windows, **kind)) <= ALARMS  # type: ignore[arg-type]


def test_windows_counted_as_independent_would_raise_it_too_often() -> None:
    means = noise(torch.Generator().manual_seed(1), 39, between=0.9).mean(dim=2)
    error = means.std(dim=1) / math.sqrt(39)
    noticed = means.mean(dim=1) > student_quantile(0.975, 38) * error
    assert float(noticed.double().mean()) > ALARMS


def test_tokens_counted_as_independent_would_raise_it_many_times_as_often() -> None:
    trials = noise(torch.Generator().manual_seed(1), 16)
    count = trials[0].numel()
    error = trials.flatten(1).std(dim=1) / math.sqrt(count)
    noticed = trials.mean(dim=(1, 2)) > 1.96 * error
    assert float(noticed.double().mean()) > 3 * ALARMS


@pytest.mark.parametrize("windows", [8, 16, 39])
def test_the_detectable_difference_is_noticed_nine_times_in_ten(windows: int) -> None:
    trials = noise(torch.Generator().manual_seed(2), windows) * 0.01
    # The spread that the trials truly have, not the one that each of them guesses.
    error = float(trials.mean(dim=(1, 2)).std())
    effect = math.log1p(PairedMean(0.0, error, windows).detectable)
    # A third of the windows as degrees of freedom: the sum of two quantiles is a little careful.
    assert 0.88 <= share_noticed(trials + effect) <= 0.96


@pytest.mark.parametrize(
    ("share", "freedom", "expected"),
    [  # from printed tables
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.9, 1, 3.078),
        (0.9, 5, 1.476),
        (0.975, 100_000, 1.960),
    ],
)
def test_quantiles_are_students(share: float, freedom: int, expected: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(expected, abs=6e-4)


def test_one_window_says_nothing_of_the_spread() -> None:
    lonely = paired_mean(torch.ones(1, 30))
    assert lonely.ratio == pytest.approx(math.e)
    assert all(math.isnan(value) for value in (*lonely.interval, lonely.detectable))


def test_equal_losses_are_known_to_be_equal() -> None:
    same = paired_mean(torch.zeros(5, 30))
    assert (same.ratio, same.interval, same.detectable) == (1.0, (1.0, 1.0), 0.0)


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_what_is_not_finite_stays_visible(spoiled: float) -> None:
    difference = torch.zeros(3, 4)
    difference[1, 2] = spoiled
    assert not math.isfinite(paired_mean(difference).ratio)
