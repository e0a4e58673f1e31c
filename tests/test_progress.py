from typing import Any

import pytest
from tqdm import tqdm

from phi3quant.cli import display

BLOCKS = 32


@pytest.mark.parametrize("first", [0.8, 1.0, 1.5], ids=lambda share: f"first block x{share}")
def test_after_three_blocks_the_end_is_known_to_a_fifth(
    first: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks cost alike, give or take what candidates they turn down; the first one may compile.
    seconds = [20.0 * first, *(20.0 * (1 + 0.1 * (number % 3 - 1)) for number in range(1, BLOCKS))]
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    bars: list[Any] = []

    def bar(**given: Any) -> Any:
        bars.append(tqdm(**given))
        return bars[0]

    monkeypatch.setattr(display, "tqdm", bar)
    with display._bar("quantizing", BLOCKS) as step:
        for number, took in enumerate(seconds, start=1):
            now[0] += took
            step(1, "0.812 of RTN's error")
            if number >= 3 and number < BLOCKS:
                shown = bars[0].format_dict
                assert shown["postfix"] == "0.812 of RTN's error"
                left = (BLOCKS - number) / shown["rate"]
                assert left == pytest.approx(sum(seconds[number:]), rel=0.2)
