"""Admission of a recipe: checks that need only the model's configuration."""

from converters.format import Format
from phi3quant.model.config import Phi3Config
from phi3quant.quant.methods import METHODS
from phi3quant.run.memory_budget import Calibrated
from phi3quant.run.recipe import Recipe
from phi3quant.run.target_size import check_target


def checked_formats(recipe: Recipe, config: Phi3Config) -> list[Format]:
    """Formats of a recipe, which fit it and the model.

    Raises:
        SchemeError: options exclude each other, or a format can't hold the schemes.
    """
    formats = recipe.open_formats()
    recipe.check_tuning()
    check_target(recipe, formats, config)
    schemes = recipe.schemes(config)
    for entry in formats:
        entry.check(schemes, config)
    return formats


def calibrated_sizes(recipe: Recipe) -> Calibrated | None:
    """Sizes of a calibrated run, for its memory; None for a method without calibration."""
    text = recipe.calibration
    if not METHODS[recipe.method].calibrated:
        return None
    return Calibrated(text.samples, text.length, recipe.compensate)
