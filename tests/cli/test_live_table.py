"""The table of running jobs, in a terminal and in a log."""

import io
import sys

import pytest

from phi3quant.cli.live_table import LiveTable
from phi3quant.cli.sweep_display import SweepDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rows_are_shown_safely_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    table = LiveTable("job", "stage")
    table.show({"one [red]": "scoring \x1b]0;title\x07"})
    table.show({"two": "done"})
    print("a line above", file=sys.stderr)  # noqa: T201 - as other modules write
    table.show({})
    table.show({})
    shown = stream.getvalue()
    assert "one [red]" in shown
    assert "\x1b]0" not in shown
    assert "a line above" in shown
    assert sys.stderr is stream


def test_a_log_gets_lines_from_time_to_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    display = SweepDisplay()
    display.watch({"one": "scoring"})
    assert capsys.readouterr().err == ""
    now = 31.0
    display.watch({"one": "scoring"})
    display.watch({"one": "scoring"})
    display.watch({})
    assert capsys.readouterr().err == "  one: scoring\n"
