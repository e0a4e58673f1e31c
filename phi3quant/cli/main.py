"""The ``phi3quant`` command."""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import click
from click.exceptions import NoSuchCommand

from phi3quant.cli.ending import StreamError, ended
from phi3quant.cli.interruption import take_signals
from phi3quant.cli.notices import show_notices
from phi3quant.cli.terminal import prepare_streams
from phi3quant.errors import InputError, on_the_command_line
from phi3quant.version import tool_version


@dataclass(frozen=True)
class _Entry:
    """A command.

    Attributes:
        module: its module next to this one.
        attribute: its name there.
        summary: its line in the list.
        calibrates: whether it needs compiled kernels soon.
    """

    module: str
    attribute: str
    summary: str
    calibrates: bool = False


_COMMANDS: Mapping[str, _Entry] = {
    "audit": _Entry("audit", "audit", "Grade a model's integrity by ten criteria."),
    "awq": _Entry("quantize", "awq", "Quantize a model by AWQ and verify the result.", True),
    "baseline": _Entry("baseline", "baseline", "Record an artifact's predictions for the gate."),
    "check": _Entry("check", "check_command", "Check an artifact against a baseline, as in CI."),
    "compare": _Entry("compare", "compare", "List the differences between two models."),
    "estimate": _Entry("estimate", "estimate", "Estimate sizes, memory and fitting devices."),
    "evaluate": _Entry("evaluate", "evaluate", "Score models on a text (alias: perplexity)."),
    "export": _Entry("export", "export", "Write a model in another format."),
    "generate": _Entry("generate", "generate", "Let a model of any format answer a prompt."),
    "gptq": _Entry("quantize", "gptq", "Quantize a model by error compensation alone.", True),
    "imatrix": _Entry("imatrix", "imatrix", "Write an importance matrix for llama.cpp."),
    "inspect": _Entry("inspect", "inspect", "Show architecture, size, hashes and provenance."),
    "report": _Entry("report", "report", "Show quality and size, as tables and an HTML page."),
    "rtn": _Entry("quantize", "rtn", "Quantize a model by rounding to nearest."),
    "sweep": _Entry("sweep", "sweep_command", "Compare many recipes on several models."),
    "tune": _Entry("tune", "tune", "Tune a quantized model's scales by its original."),
    "verify": _Entry("verify", "verify", "Check every file against the hash in its manifest."),
}
"""Commands by name. Their own help texts would load them, and torch."""

_ALIASES: Mapping[str, str] = {"perplexity": "evaluate"}
"""Other names, with the command for each."""


class _Group(click.Group):
    """A group that loads a command when it is called, so that quick ones don't wait for torch.

    However a command ends, phi3quant.cli.ending turns it into a message and an exit code.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        *arguments: Any,
        standalone_mode: bool = True,
        **named: Any,
    ) -> Any:
        run = partial(super().main, args, *arguments, standalone_mode=False, **named)
        if not standalone_mode:
            return run()
        prepare_streams()
        words = sys.argv[1:] if args is None else args

        def checked() -> Any:
            _check_words(words)
            return run()

        sys.exit(ended(checked))

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with on_the_command_line(), _past_click():
            return super().make_context(*arguments, **named)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        entry = _COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        return None if entry is None else _loaded(entry.module, entry.attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (entry := _COMMANDS.get(args[0])) and entry.calibrates:
            _prepare_kernels(args)
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            # Suggestions are looked for among loaded commands, and there are none.
            names = (*_COMMANDS, *_ALIASES)
            raise NoSuchCommand(error.command_name, possibilities=names, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, _COMMANDS[name].summary) for name in self.list_commands(ctx)]
            )

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
    """Refuse names that can't be written to a manifest or another file.

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


def _prepare_kernels(args: Sequence[str]) -> None:
    """Start compiling kernels that a first run lacks, while torch and the command are loaded."""
    if not {"-h", "--help"}.intersection(args):
        compile_ahead = importlib.import_module("phi3quant.quant.codecs.compile_ahead")
        compile_ahead.start()


@cache
def _loaded(module: str, name: str) -> click.Command:
    """Import a command with everything that it needs."""
    # Loaded modules stay, so searching them for garbage again and again would only cost a quarter
    # of a second. Frozen objects are never searched again.
    gc.disable()
    try:
        home = importlib.import_module(f"phi3quant.cli.{module}")
        command: click.Command = getattr(home, name)
    finally:
        gc.freeze()
        gc.enable()
    return command


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(tool_version(), prog_name="phi3quant")
def main() -> None:
    """Turn FP16/BF16 Phi-3 checkpoints into 4-bit models and measure the quality they lose.

    \b
    phi3quant awq --bits 4                     try it on the bundled model
    phi3quant awq MODEL -o OUT                 quantize a checkpoint and verify it
    phi3quant evaluate MODEL OUT               score both on the same text
    phi3quant generate OUT "Hello"             let the result answer
    phi3quant export gguf OUT                  write a file for llama.cpp apps
    phi3quant estimate phi-3-mini-4k           will it fit a phone, and how fast?
    phi3quant report OUT -o report.html        quality and size as an HTML page
    phi3quant sweep GRID.toml -o DIR           many recipes, and the best of them
    phi3quant inspect OUT                      architecture, size, provenance
    phi3quant audit MODEL                      integrity, graded by its evidence
    phi3quant compare MODEL OUT                differences between two models
    phi3quant verify OUT                       check files against their hashes
    phi3quant baseline create OUT -o FILE      record the quality for the CI gate
    phi3quant check OUT --baseline FILE        the CI gate: is it still as good?

    MODEL is a folder, a hub id, or phi3-tiny, which is bundled. Sizes of memory and files are
    decimal everywhere: 1 GB is 10^9 bytes.

    Exit codes: 0 done; 1 worse than a required quality or grade, or a file has changed; 2 bad input
    or a system error; 3 can't be compared, or (estimate) doesn't fit; 70 a bug; 130 interrupted.
    """
    take_signals()
    show_notices()
