"""Renderer of untrusted chat templates; the result is always text or an error.

Templates run in a separate process (template_worker.py), which is started at the first use and kept
for all chats. Its limits on time and memory also cover what jinja's sandbox doesn't limit: powers,
repeated strings, nested loops.
"""

import atexit
import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from phi3quant.errors import TokenizerError
from phi3quant.source.template_worker import SECONDS

ALL_CHATS_SECONDS, SECONDS_PER_CHAT = 20.0, 0.02
"""Limit of processor time for all chats of a template together: a fixed part, and one per chat."""

_SCRIPT = Path(__file__).with_name("template_worker.py")
# An isolated interpreter (-I) ignores PYTHONPATH, so it gets the folder of jinja2 as an argument.
_START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


class _Worker:
    """The process that renders templates, one request at a time."""

    def __init__(self, seconds: int = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._over_limit: dict[str, str] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)
        """Processor time by template, in seconds, beyond SECONDS_PER_CHAT."""

    def render(self, template: str, request: bytes) -> dict[str, Any]:
        """Send a request; a template that has exceeded a limit before isn't tried again."""
        if template in self._over_limit:
            return {"error": self._over_limit[template]}
        answer, ended = self._ask(request)
        if ended:
            self._over_limit[template] = answer["error"]
            return answer
        spent = self._spent[template] + answer["seconds"] - SECONDS_PER_CHAT
        self._spent[template] = max(0.0, spent)
        if spent > ALL_CHATS_SECONDS:
            self._over_limit[template] = (
                f"it takes more than {SECONDS_PER_CHAT} s per chat, for a long time"
            )
        return answer

    def _ask(self, request: bytes) -> tuple[dict[str, Any], bool]:
        """Answer to a request, and whether the process died of it."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(request + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = b""
            except BaseException:
                # The answer to an interrupted request would be read as the answer to the next one.
                self._close()
                raise
            if line.endswith(b"\n"):
                answer: dict[str, Any] = json.loads(line)
                return answer, False
            code = process.wait()
            self._close()
        if code == -signal.SIGPROF:
            return {"error": f"it needs more than {self._seconds} s"}, True
        return {"error": f"it ends the process that renders it (code {code})"}, True

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._close()

    def forget(self) -> None:
        """Leave the process to the parent; for use in the child after a fork."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            process.returncode = 0  # it isn't a child of this process
            _close_pipes(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._close()
            arguments = (str(Path(jinja2.__file__).parents[1]), str(_SCRIPT), str(self._seconds))
            try:
                self._process = subprocess.Popen(  # noqa: S603 - its own interpreter and script
                    [sys.executable, "-I", "-c", _START, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    # Ctrl-C should reach only this process, which then ends the worker.
                    start_new_session=True,
                )
            except OSError as error:
                raise TokenizerError(
                    f"the process that renders chat templates can't be started: {error}"
                ) from None
        return self._process

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _close_pipes(process)
            process.wait()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


_WORKER = _Worker()
atexit.register(_WORKER.close)
os.register_at_fork(after_in_child=_WORKER.forget)


def render_template(
    template: str, variables: Mapping[str, Any], now: dt.datetime | None = None
) -> str:
    """Render a chat template in transformers' environment.

    Args:
        template: source text for jinja.
        variables: JSON values by name; ``messages`` is required.
        now: date for ``strftime_now``; None for a fixed one, so that a chat always renders alike.

    Raises:
        TokenizerError: the template fails on these messages or exceeds a limit.
    """
    try:
        date = None if now is None else now.isoformat()
        request = json.dumps(
            {"template": template, "variables": dict(variables), "now": date}
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TokenizerError(f"a chat contains a value that isn't JSON: {error}") from None
    answer = _WORKER.render(template, request)
    if "error" in answer:
        raise TokenizerError(f"the model's chat template failed: {answer['error']}")
    return str(answer["text"])
