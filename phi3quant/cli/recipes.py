"""From options to a recipe: presets, and what was given beside them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from converters import to_onnx
from phi3quant.cli import options
from phi3quant.pipeline import Calibration, Recipe
from phi3quant.presets import PRESETS
from phi3quant.scheme import QuantScheme

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
        help="With --export gguf: bits a weight that the file may take, embedding and head "
        "included. Each matrix gets the type that lowers the measured loss most for its bytes.",
    ),
)

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "scheme": ("bits", "group_size", "symmetric"),
    "formats": ("formats",),
    "gguf_type": ("gguf_type",),
    "tensor_types": ("tensor_types",),
    "target_bpw": ("target_bpw",),
}
"""By field of Recipe that a preset may fill, the options that decide it."""


def recipe_of(method: str, given: Mapping[str, Any]) -> Recipe:
    """The preset, if there is one, changed by the options that were given.

    Args:
        method: a key of phi3quant.methods.METHODS.
        given: the options of ``phi3quant awq`` by name.

    Raises:
        click.UsageError: options of ONNX without ONNX.
    """
    chosen: dict[str, Any] = {
        "scheme": QuantScheme(given["bits"], given["group_size"], given["symmetric"]),
        "formats": tuple(name.strip() for name in given["formats"].split(",") if name.strip()),
        "gguf_type": given["gguf_type"],
        "tensor_types": given["tensor_types"],
        "target_bpw": given["target_bpw"],
    }
    base = Recipe()
    if given["preset"] is not None:
        base = PRESETS[given["preset"]]
        chosen = {field: value for field, value in chosen.items() if _was_given(field)}
    layout = options.onnx_options(given)
    recipe = replace(
        base,
        method=method,
        calibration=Calibration(
            given["calib"], given["calib_field"], given["samples"], given["seq_len"], given["seed"]
        ),
        compensate=given["compensate"],
        onnx=replace(base.onnx, **layout) if layout else base.onnx,
        **chosen,
    )
    if layout and to_onnx.FORMAT.name not in recipe.formats:
        raise click.UsageError(
            "--accuracy-level, --embedding, --head, --opset, --io and --split-size go with onnx "
            "among the formats of --export"
        )
    return recipe


def _was_given(field: str) -> bool:
    context = click.get_current_context()
    return any(
        context.get_parameter_source(name) != ParameterSource.DEFAULT for name in _FIELDS[field]
    )
