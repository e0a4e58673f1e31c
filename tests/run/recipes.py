"""Recipes that small models take little time for."""

from pathlib import Path

from phi3quant.run.calibration import Calibration
from phi3quant.run.recipe import Recipe


def recipe(method: str, text: Path, **changes: object) -> Recipe:
    calibration = Calibration(text, samples=8, length=64)
    return Recipe(method, calibration=calibration, **changes)  # type: ignore[arg-type]
