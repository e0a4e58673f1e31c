import os
import pty
import termios
from typing import Any

import pytest
from tqdm import tqdm

from phi3quant.cli import progress
from phi3quant.progress import silent

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

    monkeypatch.setattr(progress, "tqdm", bar)
    with progress._bar("quantizing", BLOCKS) as step:
        for number, took in enumerate(seconds, start=1):
            now[0] += took
            step(1, "0.812 of RTN's error")
            if number >= 3 and number < BLOCKS:
                shown = bars[0].format_dict
                assert shown["postfix"] == "0.812 of RTN's error"
                left = (BLOCKS - number) / shown["rate"]
                assert left == pytest.approx(sum(seconds[number:]), rel=0.2)


def test_a_log_gets_a_line_a_minute_at_most(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress.progress_bars(quiet=False)("quantizing", BLOCKS) as step:
        for _ in range(4):
            now[0] += 45
            step(1, "0.812 of RTN's error")
    assert capsys.readouterr().err.splitlines() == [
        "quantizing: 2 of 32 in 01:30, 22:30 left, 0.812 of RTN's error",
        "quantizing: 4 of 32 in 03:00, 21:00 left, 0.812 of RTN's error",
    ]


@pytest.mark.parametrize("columns", [0, 80])
def test_a_terminal_without_a_size_is_a_log(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(main, "rb"), os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        chosen = progress.progress_bars(quiet=False)
    assert chosen is (progress._bar if columns else progress._lines)


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    monkeypatch.setenv("TERM", "dumb")
    with os.fdopen(main, "rb"), os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        assert progress.progress_bars(quiet=False) is progress._lines


def test_a_log_of_a_quick_run_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bars(quiet=False)("quantizing", BLOCKS) as step:
        step(BLOCKS)
    assert capsys.readouterr().err == ""


def test_quiet_is_silent_in_a_log_too() -> None:
    assert progress.progress_bars(quiet=True) is silent
