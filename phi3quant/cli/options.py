"""Options and values that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from phi3quant.hub import BUNDLED
from phi3quant.scheme import WHOLE_ROW

Command = TypeVar("Command", bound=Callable[..., Any])


class GroupSize(click.ParamType[int | None]):
    """A number of weights, or ``row`` for whole rows (None)."""

    name = "group size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; which ones are supported is the scheme's business."""
        if value is None or isinstance(value, int):
            return value
        if value == WHOLE_ROW:
            return None
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {WHOLE_ROW!r}", param, ctx)


class Percent(click.ParamType[float]):
    """A share such as ``5%`` or ``0.05``; 0.05 either way."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the share."""
        if isinstance(value, float):
            return value
        try:
            share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            self.fail(f"{value!r} is not a share; write 5% or 0.05", param, ctx)
        if not 0 <= share < float("inf"):
            self.fail(f"{value!r} must not be negative or infinite", param, ctx)
        return share


def common(command: Command) -> Command:
    """--revision, --threads, --quiet and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("--quiet", "-q", is_flag=True, help="No progress and no notes on stderr."),
        click.option(
            "--threads", type=click.IntRange(1), help="CPU threads; by default one per core."
        ),
        click.option("--revision", help="Branch, tag or commit of a hub id."),
    ):
        command = option(command)
    return command


tensor_type = click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="PATTERN=TYPE",
    help="Another GGUF type for matrices whose name in llama.cpp matches, such as ffn_down=q8_0 or "
    "'blk.0.*=f16'; may be repeated.",
)
"""--tensor-type."""


def evaluation_text(command: Command) -> Command:
    """--text, --text-field, --window and --max-tokens."""
    for option in (
        click.option(
            "--max-tokens", type=click.IntRange(2), help="Score only so much of the text."
        ),
        click.option(
            "--window",
            type=click.IntRange(2),
            help="Tokens in a scored window.  [default: 512]",
        ),
        click.option("--text-field", help="Field of each record that holds the text."),
        click.option(
            "--text",
            help="Text to score on: a .txt, .jsonl or .parquet file or a folder of them, "
            "hf:DATASET, or general or tiny (bundled).  [default: the bundled one that suits "
            "the model]",
        ),
    ):
        command = option(command)
    return command


def note_bundled(model: str | None, *, quiet: bool) -> str:
    """The model to use; says so when it is the bundled one for want of another."""
    if model is None:
        if not quiet:
            click.echo(f"No MODEL given: using the bundled {BUNDLED}.", err=True)
        return BUNDLED
    return model


OUTPUT_TYPE = click.Path(path_type=Path)
