from dataclasses import astuple, replace
from functools import partial
from itertools import count
from typing import Any

import pytest

from phi3quant.model.config_file import read_config
from phi3quant.run import time_estimate
from phi3quant.run.memory_budget import Calibrated
from phi3quant.source.locate import bundled_folder

CONFIG = read_config(bundled_folder())
MACHINE = time_estimate.Pace(fast=2e11, full=1e11, double=5e10, copied=1e9)
RUN = Calibrated(64, 512, compensate=True)


def test_time_grows_with_layers_and_falls_with_a_faster_machine() -> None:
    one = time_estimate.seconds(replace(CONFIG, num_hidden_layers=1), RUN, MACHINE)
    assert time_estimate.seconds(
        replace(CONFIG, num_hidden_layers=32), RUN, MACHINE
    ) == pytest.approx(32 * one)
    twice = time_estimate.Pace(*(2 * rate for rate in astuple(MACHINE)))
    assert time_estimate.seconds(CONFIG, RUN, twice) == pytest.approx(
        time_estimate.seconds(CONFIG, RUN, MACHINE) / 2
    )


@pytest.mark.parametrize(
    ("run", "seconds"),
    [
        (Calibrated(8, 512, compensate=True), 28.8),
        (Calibrated(16, 512, compensate=True), 36.7),
        (Calibrated(32, 512, compensate=True), 51),
        (Calibrated(8, 512, compensate=False), 8),
        (Calibrated(32, 512, compensate=False), 19.3),
    ],
)
def test_time_at_phi3_minis_size_is_what_was_measured(run: Calibrated, seconds: float) -> None:
    # docs/performance.md: seconds of a block, and the rates of that machine on two threads.
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 96}
    widths: dict[str, Any] = {"hidden_size": 3072, "intermediate_size": 8192}
    mini = replace(CONFIG, num_hidden_layers=1, **widths, **heads)
    machine = time_estimate.Pace(863e9, 440e9, 99e9, 4.5e9)
    found = time_estimate.seconds(mini, run, machine)
    assert found == pytest.approx(seconds, rel=0.1)


def test_tokens_are_paid_in_proportion_and_weights_once() -> None:
    # More tokens than the search takes, and windows of which one in eight is judged on.
    few, more, most = (
        time_estimate.seconds(CONFIG, Calibrated(windows, 512, compensate=True), MACHINE)
        for windows in (24, 32, 40)
    )
    assert most - more == pytest.approx(more - few)
    assert few - 3 * (more - few) > 0


def test_a_machines_pace_is_its_work_over_its_time() -> None:
    # The second reading of each trial is the last: work was done once between them.
    step = 0.6 * time_estimate.TRIAL
    found = time_estimate.measured(partial(next, count(0.0, step)))
    products = 2 * 1024**3 / (2 * step)
    assert (found.fast, found.full, found.double) == pytest.approx(3 * (products,))
    assert found.copied == pytest.approx(16 * 1024**2 / (2 * step))


def test_what_is_tried_is_counted_without_its_warm_up() -> None:
    now = [0.0]
    calls: list[None] = []

    def work() -> None:
        # The first call is slow: it compiles, allocates, wakes threads.
        now[0] += 0.03 if calls else 5.0
        calls.append(None)

    rate = time_estimate.times_a_second(work, lambda: now[0])
    assert rate == pytest.approx(1 / 0.03)
    assert len(calls) == 1 + 4
