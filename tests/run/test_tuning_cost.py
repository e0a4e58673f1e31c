"""Forecast of the time and memory that tuning takes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from phi3quant.errors import MemoryLimitError
from phi3quant.model.config_file import read_config
from phi3quant.model.device import CPU
from phi3quant.run import tuning_cost
from phi3quant.run.conduct import Conduct
from phi3quant.run.time_estimate import Pace
from phi3quant.source.locate import bundled_folder
from phi3quant.tuning.settings import TuningSettings
from phi3quant.tuning.tune import Windows

CONFIG = read_config(bundled_folder())
MACHINE = Pace(fast=863e9, full=440e9, double=99e9, copied=4.5e9)


def _windows(trained: int, judged: int) -> Windows:
    ids = torch.zeros(trained + judged, 512, dtype=torch.int64)
    return Windows(ids[:trained], {"text": ids[trained:]})


@pytest.mark.parametrize(
    ("windows", "passes", "seconds"),
    [(_windows(446, 8), 4, 2440), (_windows(251, 16), 4, 1440), (_windows(256, 16), 2, 815)],
)
def test_time_of_a_small_model_is_what_was_measured(
    windows: Windows, passes: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two threads with these rates; the model of docs/quality.md, with 135 million weights.
    monkeypatch.setattr(tuning_cost, "product_dtype", lambda: torch.bfloat16)
    heads: dict[str, Any] = {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    widths: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "vocab_size": 49152}
    config = replace(CONFIG, num_hidden_layers=30, **heads, **widths)
    found = tuning_cost.seconds(config, windows, TuningSettings(passes=passes), MACHINE)
    assert found == pytest.approx(seconds, rel=0.15)


def test_time_grows_with_passes_and_falls_with_a_faster_machine() -> None:
    windows = _windows(64, 8)
    once, twice, thrice = (
        tuning_cost.seconds(CONFIG, windows, TuningSettings(passes=passes), MACHINE)
        for passes in (1, 2, 3)
    )
    assert once < twice
    assert thrice - twice == pytest.approx(twice - once)
    slow = Pace(MACHINE.fast / 2, MACHINE.full / 2, MACHINE.double / 2, MACHINE.copied / 2)
    assert tuning_cost.seconds(CONFIG, windows, TuningSettings(passes=1), slow) == pytest.approx(
        2 * once
    )


@pytest.mark.parametrize(
    ("available", "limit", "keeps"), [(3.0, None, True), (1.5, None, False), (3.0, 2.5, False)]
)
def test_freed_memory_is_kept_where_there_is_plenty(
    available: float, limit: float | None, *, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, settings = _windows(64, 8), TuningSettings()
    need = tuning_cost.memory_bytes(CONFIG, 512, settings)
    monkeypatch.setattr(tuning_cost, "available_memory", lambda: int(available * need))
    conduct = Conduct(max_memory=None if limit is None else int(limit * need))
    room = tuning_cost.room_for(CONFIG, windows, settings, CPU, conduct)
    assert room.keeps_freed == keeps


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(MemoryLimitError, match=r"tuning needs about .* of memory, and there are"):
        tuning_cost.room_for(
            CONFIG, _windows(64, 8), TuningSettings(), CPU, Conduct(max_memory=300_000_000)
        )
