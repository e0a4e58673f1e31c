"""From options to a recipe: presets, and what was given beside them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from converters.gguf import writer as gguf_writer
from converters.onnx import writer as onnx_writer
from phi3quant.cli import options
from phi3quant.run.presets import PRESETS
from phi3quant.run.recipe import Recipe

PRESET_OPTIONS = (
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Options chosen for you: phone-fast (GGUF Q4_0 and ONNX, the blocks that phones' "
        "kernels are fastest with), phone-quality (GGUF Q4_K_M), small (ONNX, groups of 128, 4-bit "
        "embedding). Options that are given count more.",
    ),
    click.option(
        "--target-bpw",
        type=click.FloatRange(1, 16),
        help="Bits a weight that a GGUF file may take, embedding and head included. Each matrix "
        "gets the type that lowers the measured loss most for its bytes.",
    ),
)

_SCHEME = ("bits", "group_size", "symmetric")
_FIELDS = ("gguf_type", "tensor_types", "target_bpw")
# Options by the fields of a calibration.
_TEXT = {
    "source": "calib",
    "field": "calib_field",
    "samples": "samples",
    "length": "seq_len",
    "seed": "seed",
}


def recipe_of(method: str, given: Mapping[str, Any]) -> Recipe:
    """The preset, if there is one, changed by the options that were given.

    Args:
        method: a key of phi3quant.quant.methods.METHODS.
        given: the options of ``phi3quant awq`` by name.

    Raises:
        click.UsageError: options of ONNX without ONNX.
    """
    preset = given["preset"]
    base = Recipe() if preset is None else PRESETS[preset]
    # Without a preset, defaults count as given.
    counted = {name: value for name, value in given.items() if preset is None or _was_given(name)}
    changes = {name: counted[name] for name in _FIELDS if name in counted}
    if given["target_bpw"] is not None and not _was_given("formats"):
        # Bits are spent by choosing among GGUF's types.
        changes["formats"] = (gguf_writer.FORMAT.name,)
    elif "formats" in counted:
        names = (name.strip() for name in counted["formats"].split(","))
        changes["formats"] = tuple(name for name in names if name)
    text = {field: counted[name] for field, name in _TEXT.items() if name in counted}
    layout = options.onnx_options(given)
    recipe = replace(
        base,
        method=method,
        scheme=replace(base.scheme, **{name: counted[name] for name in _SCHEME if name in counted}),
        calibration=replace(base.calibration, **text),
        compensate=given["compensate"],
        onnx=replace(base.onnx, **layout),
        **changes,
    )
    if layout and onnx_writer.FORMAT.name not in recipe.formats:
        raise click.UsageError(
            "--accuracy-level, --embedding, --head, --opset, --io and --split-size go with onnx "
            "among the formats of --export"
        )
    return recipe


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT
