"""Options and values that several commands share."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from converters.onnx.options import (
    ACCURACY_LEVELS,
    DEFAULT_OPSET,
    FLOATS,
    IR_VERSIONS,
    PORTABLE_OPSET,
    STORAGES,
)
from phi3quant.cli.terminal import note
from phi3quant.disk.output import clear_os_errors
from phi3quant.quant.scheme import WHOLE_ROW
from phi3quant.source.bundled import BUNDLED

EXIT_NOT_COMPARABLE = 3

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
}


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
    """A share such as ``5%`` or ``0.05``; 0.05 either way.

    A bare number of 1 and more is refused: 8 means 8% to most, and would allow 800%.
    """

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the share."""
        if isinstance(value, float):
            return value
        number = value.removesuffix("%").strip()
        try:
            share = float(number) / 100 if value.endswith("%") else float(number)
        except ValueError:
            self.fail(f"{value!r} is not a share; write 5% or 0.05", param, ctx)
        if not 0 <= share < float("inf"):
            self.fail(f"{value!r} must not be negative or infinite", param, ctx)
        if share >= 1 and number == value:
            meant = f"{number}% or {float(number) / 100:g}"
            self.fail(f"{value!r} would be {share:.0%}; write {meant}", param, ctx)
        return share


class Size(click.ParamType[int]):
    """Bytes such as ``2G`` or ``500M`` (decimal, as llama.cpp counts), or ``4GiB`` (binary)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?|[KMG]I)B?", str(value).strip().upper())
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
        if not size:
            self.fail(f"{value!r} is not a size; write 2G, 500M or 4GiB", param, ctx)
        return size


def running(command: Command) -> Command:
    """--threads, --quiet and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("--quiet", "-q", is_flag=True, help="No progress and no notes on stderr."),
        click.option(
            "--threads", type=click.IntRange(1), help="CPU threads; by default one per core."
        ),
    ):
        command = option(command)
    return command


def common(command: Command) -> Command:
    """--revision, --threads, --quiet and --json."""
    return click.option("--revision", help="Branch, tag or commit of a hub id.")(running(command))


tensor_type = click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="PATTERN=TYPE",
    help="Another GGUF type for matrices whose name in llama.cpp matches, such as ffn_down=q8_0 or "
    "'blk.0.*=f16'; may be repeated.",
)
"""--tensor-type."""


def onnx_outer(command: Command) -> Command:
    """--embedding, --head and --io: what sizes depend on; see ``onnx_options``."""
    for option in (
        click.option(
            "--io",
            type=click.Choice(list(FLOATS)),
            help="ONNX: type of inputs, outputs and products.  [default: fp32]",
        ),
        click.option(
            "--head",
            type=click.Choice(STORAGES),
            help="ONNX: how the head is stored.  [default: int8 beside codes]",
        ),
        click.option(
            "--embedding",
            type=click.Choice(STORAGES),
            help="ONNX: how the embedding is stored.  [default: int8 beside codes]",
        ),
    ):
        command = option(command)
    return command


def onnx_layout(command: Command) -> Command:
    """--accuracy-level, --embedding, --head, --opset, --io, --split-size; see ``onnx_options``."""
    command = onnx_outer(command)
    for option in (
        click.option(
            "--split-size",
            type=Size(),
            help="ONNX: start another data file past this size, such as 2G.",
        ),
        click.option(
            "--opset",
            type=click.Choice([str(number) for number in IR_VERSIONS]),
            help=f"ONNX: operator set; {PORTABLE_OPSET} loads in older mobile runtimes.  "
            f"[default: {DEFAULT_OPSET}]",
        ),
        click.option(
            "--accuracy-level",
            type=click.IntRange(ACCURACY_LEVELS.start, ACCURACY_LEVELS.stop - 1),
            help="ONNX: 4 rounds activations to 8 bits, which is what phones are fast with; 0 "
            "leaves them alone.  [default: 4]",
        ),
    ):
        command = option(command)
    return command


def onnx_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of ``onnx_layout``'s options, as arguments of OnnxOptions."""
    names = ("accuracy_level", "embedding", "head", "opset", "io", "split_size")
    found = {name: given[name] for name in names if given[name] is not None}
    if "split_size" in found:
        found["split_bytes"] = found.pop("split_size")
    if "opset" in found:
        found["opset"] = int(found["opset"])
    return found


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
            help="Text to score on: a .txt, .md, .jsonl or .parquet file or a folder of them, "
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
            note(f"No MODEL given: using the bundled {BUNDLED}.")
        return BUNDLED
    return model


class OutputFile(click.ParamType[Path]):
    """A file to write, in a folder that is there: said before any work, not after it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the folder; whether the file may be replaced is the command's business."""
        path = Path(value)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent} to write {path.name} to", param, ctx)
        if path.is_dir():
            self.fail(f"{path} is a folder", param, ctx)
        return path


OUTPUT_TYPE = click.Path(path_type=Path)


def append_text(path: Path, text: str) -> None:
    """Append to a file that others write to as well, such as GitHub's step summary.

    Raises:
        OutputError: it can't be written.
    """
    with clear_os_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text)
