from dataclasses import replace
from typing import Any

import pytest

from phi3quant import pace
from phi3quant.budget import Calibrated
from phi3quant.config import read_config
from phi3quant.hub import bundled_folder

CONFIG = read_config(bundled_folder())
MACHINE = pace.Pace(fast=2e11, full=1e11, copied=1e9)
RUN = Calibrated(64, 512, compensate=True)


def test_time_grows_with_layers_and_falls_with_a_faster_machine() -> None:
    one = pace.seconds(replace(CONFIG, num_hidden_layers=1), RUN, MACHINE)
    assert pace.seconds(replace(CONFIG, num_hidden_layers=32), RUN, MACHINE) == pytest.approx(
        32 * one
    )
    twice = pace.Pace(*(2 * rate for rate in (MACHINE.fast, MACHINE.full, MACHINE.copied)))
    assert pace.seconds(CONFIG, RUN, twice) == pytest.approx(pace.seconds(CONFIG, RUN, MACHINE) / 2)


def test_time_at_phi3_minis_size_is_near_that_of_its_products_alone() -> None:
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 32}
    mini = replace(CONFIG, hidden_size=3072, intermediate_size=8192, num_hidden_layers=1, **heads)
    run = Calibrated(32, 512, compensate=True)
    # Every token passes through the original and the quantized block's 113 million weights.
    passing = 2 * 2 * 113e6 * 32 * 512 / MACHINE.fast
    assert 1.5 * passing < pace.seconds(mini, run, MACHINE) < 6 * passing
    # What isn't compensated passes once less, and has nothing to factor.
    alone = pace.seconds(mini, replace(run, compensate=False), MACHINE)
    assert alone < 0.8 * pace.seconds(mini, run, MACHINE)


def test_what_is_fixed_is_paid_once_whatever_the_text() -> None:
    few, many = (Calibrated(windows, 512, compensate=True) for windows in (32, 64))
    ratio = pace.seconds(CONFIG, many, MACHINE) / pace.seconds(CONFIG, few, MACHINE)
    assert 1.3 < ratio < 2


def test_a_machine_has_a_pace() -> None:
    found = pace.measured()
    assert min(found.fast, found.full, found.copied) > 0
