"""Options that several commands share, in groups; a command receives each group as one value."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from converters.onnx.options import (
    ACCURACY_LEVELS,
    DEFAULT_OPSET,
    FLOATS,
    IR_VERSIONS,
    PORTABLE_OPSET,
    STORAGES,
    OnnxOptions,
)
from converters.packed.mlx_options import STORAGES as MLX_STORAGES
from converters.packed.mlx_options import MlxOptions
from phi3quant.cli import values
from phi3quant.cli.notices import QUIET
from phi3quant.cli.terminal import note
from phi3quant.run.profiles import PROFILES
from phi3quant.source.bundled import BUNDLED

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

TEXT_SOURCES = (
    "a .txt, .md, .jsonl, .json or .parquet file, a folder, hf:DATASET, or a bundled text "
    "(general or tiny).  [default: the bundled text that suits the model]"
)
MODEL = click.argument("model", required=False)


def group(name: str, kind: Callable[..., object], *options: Decorator[Any]) -> Decorator[Any]:
    """A decorator that adds options and hands their values to the command as one argument.

    Args:
        name: of the command's argument.
        kind: a dataclass whose fields are named as the options' values, with more fields if they
            have defaults.
        options: click's decorators, in the order of the help text.
    """

    def decorate(command: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(command)
        def grouped(**entered: object) -> object:
            members = {field: entered.pop(field) for field in names if field in entered}
            return command(**entered, **{name: kind(**members)})

        decorated: Callable[..., object] = grouped
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return decorate


@dataclass(frozen=True)
class Running:
    """Options of running and reporting that all commands share.

    Attributes:
        threads: for matrix products; None: one for each core.
        quiet: neither progress nor notes.
        as_json: the result as JSON.
    """

    threads: int | None
    quiet: bool
    as_json: bool


def _keep_quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:  # noqa: FBT001
    ctx.meta[QUIET] = value
    return value


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
REVISION = click.option("--revision", help="Branch, tag or commit of a hub id.")
REQUANTIZE = click.option(
    "--requantize",
    is_flag=True,
    help="Round the codes of a quantized MODEL a second time where the target can't hold them.",
)
ADAPTERS = click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="FOLDER[=WEIGHT]",
    help="LoRA or DoRA adapter to merge into the model (the first one, if there are several): a "
    "folder, a hub id, or the name of an adapter inside the model. Can be repeated.",
)
RUNNING = group(
    "running",
    Running,
    click.option(
        "--threads",
        type=click.IntRange(1),
        help="CPU threads.  [default: one per core that a container's limit allows]",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        callback=_keep_quiet,
        help="Print neither progress nor notes on stderr.",
    ),
    AS_JSON,
)


DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Device that computes: cpu, cuda, cuda:N, mps, or auto for the first CUDA GPU, if torch "
    "can use one.",
)

PROFILE = click.option(
    "--profile",
    type=values.Name("profile", PROFILES),
    help="Runtime on the phone, whose limits decide format and types: "
    f"{'; '.join(f'{name} ({profile.purpose})' for name, profile in PROFILES.items())}.",
)
BITS = click.option(
    "--bits",
    type=int,
    default=4,
    show_default=True,
    help="Bits per code: 4 or 8; 3 in gptq and mlx; 2, 5 or 6 in mlx.",
)
MATRIX_TYPES = click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="PATTERN=TYPE",
    help="Another type for the matrices whose name matches, int with a number of --bits, such as "
    "down_proj=int8 or 'layers.0.*=int8'. With --gguf-type a GGUF type for llama.cpp's names, such "
    "as ffn_down=q8_0. Can be repeated.",
)
TENSOR_TYPES = click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="PATTERN=TYPE",
    help="Another GGUF type for the matrices whose llama.cpp name matches, such as ffn_down=q8_0 "
    "or 'blk.0.*=f16'. Can be repeated.",
)


@dataclass(frozen=True)
class OnnxLayout:
    """Layout of an ONNX folder, as far as it was chosen; see converters.onnx.options."""

    embedding: str | None
    head: str | None
    io: str | None
    accuracy_level: int | None = None
    opset: str | None = None
    split_size: int | None = None

    @property
    def outer(self) -> dict[str, Any]:
        """Types of embedding and head that were entered."""
        arguments = {"embedding": self.embedding, "head": self.head}
        return {name: value for name, value in arguments.items() if value is not None}

    @property
    def chosen(self) -> dict[str, Any]:
        """Arguments of OnnxOptions for the options that were entered."""
        arguments = {
            "embedding": self.embedding,
            "head": self.head,
            "io": self.io,
            "accuracy_level": self.accuracy_level,
            "opset": int(self.opset) if self.opset else None,
            "split_bytes": self.split_size,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    def options(self) -> OnnxOptions:
        """The layout, with defaults for everything else."""
        return OnnxOptions(**self.chosen)


_OUTER = (
    click.option(
        "--embedding",
        type=click.Choice(STORAGES),
        help="Type of the stored embedding in ONNX and MLX; a tied model shares the head's 4 or 8 "
        "bits unless both types are chosen.  [default: int8 if the model is quantized]",
    ),
    click.option(
        "--head",
        type=click.Choice(STORAGES),
        help="Type of the stored output matrix in ONNX and MLX.  [default: int8 if the model is "
        "quantized]",
    ),
    click.option(
        "--io",
        type=click.Choice(list(FLOATS)),
        help="Type of inputs, outputs and products.  [default: fp32]",
    ),
)
MLX_OUTER = group(
    "outer",
    MlxOptions,
    click.option(
        "--embedding",
        type=click.Choice(MLX_STORAGES),
        help="Type of the stored embedding. In a tied model it is the head too, and gets 4 bits "
        "only by --head int4.  [default: int8]",
    ),
    click.option(
        "--head",
        type=click.Choice(MLX_STORAGES),
        help="Type of the stored output matrix.  [default: int8]",
    ),
)

ONNX_OUTER = group("layout", OnnxLayout, *_OUTER)
"""The options that sizes depend on."""

ONNX_LAYOUT = group(
    "layout",
    OnnxLayout,
    click.option(
        "--accuracy-level",
        type=click.IntRange(ACCURACY_LEVELS.start, ACCURACY_LEVELS.stop - 1),
        help="4 rounds activations to 8 bits, which phones compute fastest; 0 doesn't round them; "
        "1, 2 and 3 allow FP32, FP16 and BF16.  [default: 4]",
    ),
    click.option(
        "--opset",
        type=click.Choice([str(number) for number in IR_VERSIONS]),
        help=f"Operator set; {PORTABLE_OPSET} loads in older mobile runtimes.  "
        f"[default: {DEFAULT_OPSET}]",
    ),
    *_OUTER,
    click.option(
        "--split-size",
        type=values.Size(),
        help="Largest size of a data file, such as 2GB; the rest goes to further files.",
    ),
)


def model_or_bundled(model: str | None, *, quiet: bool) -> str:
    """The model, or the bundled one with a note if none was named."""
    if model is None:
        if not quiet:
            note(f"No MODEL given: using the bundled {BUNDLED}.")
        return BUNDLED
    return model
