"""The ``phi3quant`` command."""

import signal
import threading
from types import FrameType
from typing import Any

import click

from phi3quant.cli import options
from phi3quant.cli.baseline import baseline
from phi3quant.cli.check import check_command
from phi3quant.cli.compare import compare
from phi3quant.cli.export import export
from phi3quant.cli.inspect import inspect
from phi3quant.cli.perplexity import perplexity
from phi3quant.cli.quantize import awq, gptq, rtn
from phi3quant.cli.report import report
from phi3quant.cli.verify import verify
from phi3quant.errors import NotComparableError, Phi3QuantError
from phi3quant.manifest import tool_version

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_stopping = threading.Event()
"""Set once a signal has asked for an end."""


class _BadInput(click.ClickException):
    exit_code = EXIT_BAD_INPUT


class _NotComparable(click.ClickException):
    exit_code = options.EXIT_NOT_COMPARABLE


class _Group(click.Group):
    """Turns the project's errors into a message and an exit code, at this one place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            pass
        except Exception as error:
            # A library that the interruption strikes in may make an error of its own of it.
            if not _stopping.is_set():
                if isinstance(error, NotComparableError):
                    raise _NotComparable(str(error)) from None
                if isinstance(error, Phi3QuantError):
                    raise _BadInput(str(error)) from None
                raise
        click.echo("\nInterrupted; nothing was left half-written.", err=True)
        return ctx.exit(EXIT_INTERRUPTED)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(tool_version(), prog_name="phi3quant")
def main() -> None:
    """Turn FP16/BF16 Phi-3 checkpoints into 4-bit models and measure what that cost.

    \b
    phi3quant awq --bits 4                        the bundled model, to see it work
    phi3quant awq MODEL -o OUT                    quantize a checkpoint and verify it
    phi3quant perplexity MODEL OUT                score both on the same text
    phi3quant inspect OUT                         sizes, architecture, provenance
    phi3quant compare MODEL OUT                   what differs, and how much it matters
    phi3quant baseline create OUT -o FILE         record what it says of a text
    phi3quant check OUT --baseline FILE           the CI gate: is it still as good?
    phi3quant report OUT -o report.html           all of it as a page with figures
    phi3quant verify OUT                          are its bytes those that were written?

    MODEL is a folder, a hub id, or phi3-tiny, which is bundled.
    Exit codes: 0 done, 1 a quality limit was missed or a file changed, 2 bad input, 3 not
    comparable, 130 interrupted.
    """
    _stopping.clear()
    # A polite kill cleans up like Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _stopping.set()
    raise KeyboardInterrupt


_COMMANDS = (
    *(awq, gptq, rtn, perplexity, inspect, export),
    *(baseline, check_command, compare, verify, report),
)
for command in _COMMANDS:
    main.add_command(command)
