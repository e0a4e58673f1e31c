"""Worker process that renders chat templates.

A template is an untrusted program that is part of a model. It runs in jinja's sandbox, in the same
environment as in transformers (transformers.utils.chat_template_utils). Limits hold in compiled
code too: exhausted processor time ends the process, exhausted memory raises an exception.

This file runs as a script and imports only jinja2 and the standard library. Requests and answers
are JSON, one per line. A request is an object with ``template``, ``variables`` and ``now``, an ISO
date or null. The answer has ``text`` or ``error``, and ``seconds``, the processor time.
"""

import contextlib
import datetime as dt
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import IO, Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

SECONDS = 3
"""Limit of processor time per chat; real templates take less than a millisecond."""
MEMORY = 512 << 20
"""Limit of memory for rendering, in bytes beyond those of the idle process."""
_CHARACTERS = 16 << 20
"""Limit of output characters, in addition to four times the length of the request."""
_NOW = "2025-01-01T12:00:00"
"""Date of ``strftime_now`` in requests without one, so that a chat always renders alike."""
# Keys of a message's reasoning, the standard one first; transformers fills in the others.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class _Generation(jinja2.ext.Extension):
    """The tag ``{% generation %}``, which marks text for training; rendering keeps its body."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    @staticmethod
    def _inside(caller: jinja2.runtime.Macro) -> str:
        return str(caller())


class _Namespace(jinja2.utils.Namespace):
    """Namespace without attributes that could reach into the interpreter, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *values = args
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


class _Dict:
    """The function ``dict``, without access to the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    @staticmethod
    def fromkeys(*args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _check_attribute(name: Any) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace can't hold {name!r}")


def _refuse(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    # No autoescape: the output is plain text, not HTML.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_refuse,
        namespace=_Namespace,
        dict=_Dict(),
    )
    return environment.from_string(template)


def _with_reasoning(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _render(template: str, variables: dict[str, Any], now: str | None, limit: int) -> str:
    messages = [_with_reasoning(message) for message in variables["messages"]]
    date = dt.datetime.fromisoformat(now or _NOW)
    pieces: list[str] = []
    length = 0
    names = {"strftime_now": date.strftime, **variables, "messages": messages}
    for piece in _compile(template).generate(names):
        length += len(piece)
        if length > limit:
            raise jinja2.TemplateError(f"it writes more than {limit:,} characters")
        pieces.append(str(piece))
    text = "".join(pieces)
    text.encode()  # raises UnicodeEncodeError for half of a surrogate pair
    return text


_REASONS: Mapping[type[BaseException], str] = {
    UnicodeEncodeError: "its output holds half of a surrogate pair",
    MemoryError: f"it needs more than {MEMORY >> 20} MiB of memory",
    RecursionError: "it is nested too deeply",
    ZeroDivisionError: "division by zero",
}
_LONGEST_REASON = 500


def _answer(line: bytes) -> dict[str, str]:
    request = json.loads(line)
    try:
        limit = _CHARACTERS + 4 * len(line)
        text = _render(request["template"], request["variables"], request.get("now"), limit)
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"[:_LONGEST_REASON]}
    except Exception as error:  # noqa: BLE001 - templates can raise any exception
        reason = _REASONS.get(type(error), str(error)[:_LONGEST_REASON])
        return {"error": reason or type(error).__name__}
    else:
        return {"text": text}


def _limit_memory() -> None:
    try:
        with open("/proc/self/statm", encoding="ascii") as opened:  # noqa: PTH123
            base = int(opened.read().split()[0]) * resource.getpagesize()
    except OSError:
        base = MEMORY
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY, base + MEMORY))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(requests: IO[bytes], answers: IO[bytes], seconds: int) -> None:
    # The default action of SIGPROF ends the process, even inside compiled code.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for line in requests:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        start = time.process_time()
        answer = json.dumps({**_answer(line), "seconds": time.process_time() - start}).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer + b"\n")
        answers.flush()


if __name__ == "__main__":
    # Answers go to a copy of standard output, so that nothing else is written between them.
    _ANSWERS = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit_memory()
    _serve(sys.stdin.buffer, _ANSWERS, int(sys.argv[1]))
