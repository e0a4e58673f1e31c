"""Options that decide the weights, and the recipe that they make together with a preset."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import click
from click.core import ParameterSource

from converters import FORMATS
from converters.gguf.type_policy import FILE_TYPES
from converters.onnx import writer as onnx_writer
from converters.packed import mlx
from phi3quant.cli import options, values
from phi3quant.cli.calibration_options import CALIBRATION_FIELDS, CALIBRATION_OPTIONS
from phi3quant.cli.options import OnnxLayout
from phi3quant.cli.tuning_options import TUNING_OPTIONS
from phi3quant.quant.scheme import GROUP_SIZES, WHOLE_ROW
from phi3quant.run.choices import (
    PRESET,
    PROFILE,
    RECIPE_FIELDS,
    SCHEME_FIELDS,
    TUNE,
    TUNING_FIELDS,
    recipe_of_choices,
)
from phi3quant.run.presets import PRESETS
from phi3quant.run.recipe import Recipe


@dataclass(frozen=True)
class RecipeOptions:
    """Options of awq, gptq and rtn that decide the weights, apart from the layout of ONNX."""

    preset: str | None
    profile: str | None
    target_bpw: float | None
    bits: int
    group_size: int | None
    symmetric: bool
    calib: tuple[str, ...]
    calib_field: str | None
    samples: int
    seq_len: int
    seed: int
    compensate: bool
    tune: bool
    tune_windows: int
    tune_passes: int
    gguf_type: str | None
    tensor_types: tuple[str, ...]
    formats: tuple[str, ...]


RECIPE = options.group(
    "wanted",
    RecipeOptions,
    click.option(
        "--preset",
        type=values.Name("preset", PRESETS),
        help="Tested set of options: phone-fast (GGUF Q4_0 and ONNX, fastest on phones), best (the "
        "same files with --tune, closest to MODEL; takes hours on a CPU for 3.8 billion weights: "
        "use a GPU, or fewer --tune-windows), "
        "phone-quality (GGUF Q4_K_M), iphone (MLX, groups of 64) or small (ONNX, groups of 128, "
        "4-bit embedding). Other options on the command line override it.",
    ),
    options.PROFILE,
    click.option(
        "--target-bpw",
        type=click.FloatRange(1, 16),
        help="Largest average bits per weight of the files, embedding and head included. The type "
        "of each matrix is chosen by measured loss: among GGUF's types by default and with "
        "--export gguf, otherwise int4 or int8, or int3 or int4 for the smallest files.",
    ),
    options.BITS,
    click.option(
        "--group-size",
        type=values.GroupSize(),
        default="32",
        show_default=True,
        help=f"Weights that share a scale: {', '.join(map(str, GROUP_SIZES))} or {WHOLE_ROW}.",
    ),
    click.option(
        "--sym/--asym",
        "symmetric",
        default=True,
        show_default=True,
        help="Symmetric codes, or codes with a zero point for each group.",
    ),
    *CALIBRATION_OPTIONS,
    click.option(
        "--compensate/--no-compensate",
        default=True,
        show_default=True,
        help="Let later weights make up for the rounding errors of earlier ones, in a row (GPTQ) "
        "and across blocks, where that lowers the error on held-back windows.",
    ),
    *TUNING_OPTIONS,
    click.option(
        "--gguf-type",
        type=values.Name("GGUF type", FILE_TYPES),
        help="With --export gguf: type of the file, in place of --bits, --group-size and --sym or "
        f"--asym. One of {', '.join(FILE_TYPES)}.",
    ),
    options.MATRIX_TYPES,
    click.option(
        "--export",
        "formats",
        type=values.Names("format", FORMATS),
        default=next(iter(FORMATS)),
        show_default=True,
        help=f"Formats, separated by commas: {', '.join(FORMATS)}. The first is written to the "
        "output folder itself, the others to folders in it.",
    ),
)

_OPTIONS: Mapping[str, str] = {
    **{
        name: name
        for name in (PRESET, PROFILE, *SCHEME_FIELDS, *RECIPE_FIELDS, TUNE, *TUNING_FIELDS)
    },
    **CALIBRATION_FIELDS,
}
"""Options by the choice that each makes."""


def recipe_of(method: str, wanted: RecipeOptions, layout: OnnxLayout) -> Recipe:
    """The preset, if there is one, changed by the options on the command line.

    Args:
        method: a key of phi3quant.quant.methods.METHODS.
        wanted: the options.
        layout: of an ONNX folder; embedding and head of an MLX folder.

    Raises:
        click.UsageError: options of ONNX or MLX without that format, or a preset with a profile.
        SchemeError: MLX can't have a type of ONNX.
    """
    if wanted.preset is not None and wanted.profile is not None:
        raise click.UsageError("--preset and --profile both choose types; pass one of them.")
    # Defaults override neither a preset nor a profile.
    entered = {
        field: getattr(wanted, option) for field, option in _OPTIONS.items() if _was_entered(option)
    }
    recipe = recipe_of_choices(method, entered)
    if onnx_writer.FORMAT.name in recipe.formats:
        recipe = replace(recipe, onnx=replace(recipe.onnx, **layout.chosen))
    elif layout.chosen and (layout.chosen != layout.outer or mlx.LAYOUT.name not in recipe.formats):
        raise click.UsageError(
            "--accuracy-level, --opset, --io and --split-size require onnx among the formats of "
            "--export, --embedding and --head require onnx or mlx."
        )
    if mlx.LAYOUT.name in recipe.formats:
        recipe = replace(recipe, mlx=replace(recipe.mlx, **layout.outer))
    return recipe


def _was_entered(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT
