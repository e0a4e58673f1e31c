"""The ``phi3quant`` command."""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import click

from phi3quant.cli.ending import StreamError, ended
from phi3quant.cli.interruption import take_signals
from phi3quant.cli.notices import show_notices
from phi3quant.cli.terminal import prepare_streams
from phi3quant.errors import InputError, on_the_command_line
from phi3quant.version import tool_version

_HOMES: Mapping[str, tuple[str, str]] = {
    "awq": ("quantize", "awq"),
    "baseline": ("baseline", "baseline"),
    "check": ("check", "check_command"),
    "compare": ("compare", "compare"),
    "estimate": ("estimate", "estimate"),
    "export": ("export", "export"),
    "generate": ("generate", "generate"),
    "gptq": ("quantize", "gptq"),
    "inspect": ("inspect", "inspect"),
    "perplexity": ("perplexity", "perplexity"),
    "report": ("report", "report"),
    "rtn": ("quantize", "rtn"),
    "verify": ("verify", "verify"),
}
"""Each command's module beside this one, and its name there."""

_SUMMARIES: Mapping[str, str] = {
    "awq": "Quantize a model by AWQ, and verify it.",
    "baseline": "Record what an artifact says, for the gate.",
    "check": "The CI gate: hold an artifact against a baseline.",
    "compare": "What differs between two models, and how much it matters.",
    "estimate": "Sizes, memory and devices, before anything is made.",
    "export": "Write a model in another format.",
    "generate": "Let a model of any format answer a prompt.",
    "gptq": "Quantize a model by compensation alone.",
    "inspect": "A model's architecture, sizes, hashes and provenance.",
    "perplexity": "Score models on the same text.",
    "report": "What runs cost, as tables and as a page with figures.",
    "rtn": "Quantize a model by rounding to nearest.",
    "verify": "Hold every file against the hash in its manifest.",
}
"""What the list of commands says: asking the commands would load them, and torch."""


class _Group(click.Group):
    """Loads a command when it is called, so that quick ones don't wait for torch.

    However a command ends, phi3quant.cli.ending turns it into a message and an exit code.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        *given: Any,
        standalone_mode: bool = True,
        **named: Any,
    ) -> Any:
        run = partial(super().main, args, *given, standalone_mode=False, **named)
        if not standalone_mode:
            return run()
        prepare_streams()
        words = sys.argv[1:] if args is None else args

        def checked() -> Any:
            _check_words(words)
            return run()

        sys.exit(ended(checked))

    def make_context(self, *given: Any, **named: Any) -> click.Context:
        with on_the_command_line(), _past_click():
            return super().make_context(*given, **named)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _HOMES:
            return None
        return _loaded(*_HOMES[cmd_name])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SUMMARIES[name]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        with on_the_command_line(), _past_click():
            return super().invoke(ctx)


@contextlib.contextmanager
def _past_click() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamError from error


def _check_words(words: Sequence[str]) -> None:
    """Refuse names that no manifest and no other file can hold.

    Raises:
        InputError: a word of the command line isn't UTF-8.
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{word} on the command line is not UTF-8; rename the file or folder"
            ) from None


@cache
def _loaded(module: str, name: str) -> click.Command:
    """A command, with all that it needs."""
    # What loading makes stays, so that looking through it for garbage, time and again, only takes
    # a quarter of a second. Once in a process: what is frozen is never looked through again.
    gc.disable()
    try:
        found: click.Command = getattr(importlib.import_module(f"phi3quant.cli.{module}"), name)
    finally:
        gc.freeze()
        gc.enable()
    return found


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
    phi3quant estimate phi-3-mini-4k              will it fit, and how fast could it be?
    phi3quant generate OUT "Hello"                let it answer

    MODEL is a folder, a hub id, or phi3-tiny, which is bundled.
    Exit codes: 0 done, 1 a quality limit was missed or a file changed, 2 bad input or an error of
    the system, 3 not comparable or (estimate) doesn't fit, 70 a bug, 130 interrupted.
    """
    take_signals()
    show_notices()
