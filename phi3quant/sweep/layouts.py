"""Choices of a grid for the layout of ONNX and MLX folders, which leave the blocks' codes alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from converters.onnx import writer as onnx_writer
from converters.packed import mlx
from phi3quant.errors import SchemeError
from phi3quant.run.recipe import Recipe

OUTER_CHOICES = ("embedding", "head")
"""Choices for both formats: the types of embedding and head."""
ONNX_CHOICES = (*OUTER_CHOICES, "io", "accuracy_level", "opset")
"""Choices for ONNX: fields of converters.onnx.options.OnnxOptions."""


def with_layout(recipe: Recipe, choices: Mapping[str, Any]) -> Recipe:
    """A recipe whose ONNX and MLX folders have the chosen layout.

    Args:
        recipe: the recipe.
        choices: values by name, of which only those above count.

    Raises:
        SchemeError: the recipe has no format for a choice, or a format doesn't have the value.
    """
    chosen = {name: choices[name] for name in ONNX_CHOICES if name in choices}
    outer = {name: chosen[name] for name in OUTER_CHOICES if name in chosen}
    with_onnx, with_mlx = (
        form in recipe.formats for form in (onnx_writer.FORMAT.name, mlx.LAYOUT.name)
    )
    if chosen != outer and not with_onnx:
        raise SchemeError("io, accuracy-level and opset require onnx among the formats of export")
    if outer and not (with_onnx or with_mlx):
        raise SchemeError("embedding and head require onnx or mlx among the formats of export")
    if with_onnx:
        recipe = replace(recipe, onnx=replace(recipe.onnx, **chosen))
    if with_mlx:
        recipe = replace(recipe, mlx=replace(recipe.mlx, **outer))
    return recipe
