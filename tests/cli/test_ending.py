"""Every end of a command: one message, and the exit code that is documented for it."""

import contextlib
import errno
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from phi3quant.cli import ending, interruption
from phi3quant.cli.main import main

INSPECT = "phi3quant.cli.inspect.inspection.inspect"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Result]:
    """Run a command in which an error is raised."""
    monkeypatch.delenv(ending.TRACEBACK, raising=False)

    def invoke(error: BaseException) -> Result:
        def fail(*_given: object, **_named: object) -> None:
            raise error

        monkeypatch.setattr(INSPECT, fail)
        return CliRunner().invoke(main, ["inspect", "--quiet"])

    return invoke


def phi3quant(*words: object, **named: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phi3quant", *map(str, words)]
    return subprocess.run(command, check=False, text=True, **{"stderr": -1, **named})  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.EIO, "Input/output error", "a/b"), 2, "Error: a/b: Input/output error"),
        (OSError(errno.EIO, "Input/output error"), 2, "refused to read or write: Input/output"),
        (PermissionError(errno.EACCES, "Permission denied", b"a"), 2, "a: Permission denied"),
        (MemoryError(), 2, "memory ran out"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 2, "memory ran out"),
        (RuntimeError("std::bad_alloc"), 2, "memory ran out"),
        (ValueError("odd"), 70, "ValueError: odd"),
        (RecursionError("deep"), 70, "RecursionError: deep"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (EOFError(), 130, "Interrupted"),
        (click.ClickException("bad"), 1, "Error: bad"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_errors_end_with_one_message_and_their_code(
    error: BaseException,
    code: int,
    message: str,
    failing: Callable[[BaseException], Result],
) -> None:
    result = failing(error)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_notes_on_an_error_are_printed(failing: Callable[[BaseException], Result]) -> None:
    error = OSError(errno.EIO, "Input/output error", "x")
    error.add_note("2 finished blocks are kept")
    assert "2 finished blocks are kept" in failing(error).stderr


def test_a_bug_is_raised_where_the_environment_asks_for_it(
    failing: Callable[[BaseException], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ending.TRACEBACK in failing(ValueError("odd")).stderr
    monkeypatch.setenv(ending.TRACEBACK, "1")
    assert isinstance(failing(ValueError("odd")).exception, ValueError)
    assert failing(MemoryError()).exit_code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", [("inspect",), ("inspect", "--json"), ("estimate",)])
def test_a_full_stdout_is_reported(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = phi3quant(*words, stdout=full)
    assert done.returncode == 2
    assert "standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_gone_ends_a_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = phi3quant("inspect", "--quiet", stdout=writing)
    os.close(writing)
    assert done.returncode == ending.EXIT_READER_GONE
    assert done.stderr == ""


def test_head_may_take_the_first_lines_alone() -> None:
    command = f"{sys.executable} -m phi3quant estimate phi-3-mini-4k --tensors | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("phi-3-mini-4k: ")
    assert done.stderr == ""


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "xterm"}])
def test_a_terminal_gets_tables_without_escape_sequences(environment: dict[str, str]) -> None:
    main_end, terminal_end = pty.openpty()
    termios.tcsetwinsize(terminal_end, (25, 60))
    named = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = phi3quant(
        *("estimate", "phi-3-mini-4k"), env={**named, **environment}, stdout=terminal_end
    )
    os.close(terminal_end)
    assert done.returncode == 0, done.stderr
    shown = b""
    with contextlib.suppress(OSError):  # the end of what was written
        while part := os.read(main_end, 4096):
            shown += part
    os.close(main_end)
    lines = shown.decode().splitlines()
    assert "\x1b" not in shown.decode()
    assert 50 < max(map(len, lines)) <= 60


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_of_the_terminal_will_do(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = ("perplexity", "--max-tokens", "64", "--window", "32", "--quiet")
    done = phi3quant(*words, env=environment, stdout=subprocess.PIPE, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert ("±" if encoding == "latin-1" else "+-") in done.stdout
    missing = phi3quant("inspect", "./é漢", env=environment, encoding=encoding)
    assert missing.returncode == 2
    assert r"\u6f22" in missing.stderr


@pytest.mark.parametrize(
    "words", [("rtn", "phi3-tiny", "-o", "\udcff"), ("inspect", "a\udcff"), ("estimate", "\udcff")]
)
def test_names_that_are_not_utf8_are_refused_before_any_work(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "not UTF-8; rename" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("module", ["torch", "numba", "click"])
def test_an_interruption_while_libraries_load_leaves_no_traceback(
    number: signal.Signals, module: str, tmp_path: Path
) -> None:
    # Struck when the module is first looked for, at the same moment in every run.
    strike = tmp_path / "strike.py"
    strike.write_text(
        "import runpy, signal, sys\n"
        # Under nohup it is ignored.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "class Strike:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            signal.raise_signal({int(number)})\n"
        "sys.meta_path.insert(0, Strike())\n"
        "sys.argv = ['phi3quant', 'rtn', '-o', 'out']\n"
        "runpy.run_module('phi3quant', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, str(strike)], cwd=tmp_path, stderr=-1, text=True, check=False
    )
    assert done.returncode == interruption.EXIT_INTERRUPTED, done.stderr
    assert done.stderr.strip() == interruption.MESSAGE


def test_an_interruption_that_python_drops_strikes_again(tmp_path: Path) -> None:
    script = tmp_path / "dropped.py"
    script.write_text(
        "import signal, time\n"
        "from phi3quant.cli import interruption\n"
        "interruption.take_signals()\n"
        "interruption.strike_again()\n"
        "class Dropping:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "try:\n"
        "    Dropping()\n"
        "    time.sleep(60)\n"
        "    raise SystemExit('not interrupted')\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(7)\n"
    )
    done = subprocess.run([sys.executable, str(script)], stderr=-1, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "")


def test_the_second_signal_lets_the_clean_up_finish_and_the_third_does_not(tmp_path: Path) -> None:
    script = tmp_path / "signals.py"
    script.write_text(
        "import signal, sys\n"
        "from phi3quant.cli import interruption\n"
        "interruption.take_signals()\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('cleaned up', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('never reached', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == interruption.EXIT_INTERRUPTED
    assert done.stdout == "cleaned up\n"
    assert "a third signal ends it at once" in done.stderr


def test_hangups_stay_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        interruption.take_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGINT, others[0])
        signal.signal(signal.SIGTERM, others[1])


def test_other_systems_are_refused_in_one_sentence(tmp_path: Path) -> None:
    script = tmp_path / "windows.py"
    script.write_text(
        "import runpy, sys\n"
        "sys.platform = 'win32'\n"
        "sys.argv = ['phi3quant', 'inspect']\n"
        "runpy.run_module('phi3quant', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, str(script)], stderr=-1, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "use it in WSL" in done.stderr
