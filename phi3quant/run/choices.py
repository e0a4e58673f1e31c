"""Recipes from single choices, as a command line or a grid makes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from converters.gguf import writer as gguf_writer
from phi3quant.errors import SchemeError
from phi3quant.run.presets import PRESETS, profiled
from phi3quant.run.profiles import PROFILES
from phi3quant.run.recipe import Recipe
from phi3quant.tuning.settings import TuningSettings

PRESET, PROFILE = "preset", "profile"
SCHEME_FIELDS = ("bits", "group_size", "symmetric")
"""Choices that are fields of a scheme."""
CALIBRATION_FIELDS = ("source", "field", "samples", "length", "seed")
"""Choices that are fields of a calibration."""
RECIPE_FIELDS = ("compensate", "gguf_type", "tensor_types", "target_bpw", "formats")
"""Choices that are fields of a recipe."""
TUNE, TUNING_FIELDS = "tune", {"tune_windows": "windows", "tune_passes": "passes"}
"""Choice of whether to tune, and choices that are fields of its settings."""


def recipe_of_choices(method: str, choices: Mapping[str, Any]) -> Recipe:
    """The preset or profile, if one is chosen, changed by the other choices.

    Args:
        method: a key of phi3quant.quant.methods.METHODS.
        choices: values by name: ``preset``, ``profile``, ``tune`` and the fields above.

    Raises:
        SchemeError: both a preset and a profile are chosen, settings of tuning without tuning, or a
            value is not supported.
    """
    base = _base(choices)
    changes = {name: choices[name] for name in RECIPE_FIELDS if name in choices}
    if base.profile is not None:
        # Types of single tensors precede those of the profile.
        changes["tensor_types"] = (
            *choices.get("tensor_types", ()),
            *PROFILES[base.profile].overrides(choices.get("gguf_type")),
        )
    if choices.get("target_bpw") is not None and "formats" not in choices:
        # GGUF has the most types to choose from.
        changes["formats"] = (gguf_writer.FORMAT.name,)
    return replace(
        base,
        method=method,
        scheme=replace(base.scheme, **_chosen(choices, SCHEME_FIELDS)),
        calibration=replace(base.calibration, **_chosen(choices, CALIBRATION_FIELDS)),
        tuning=_tuning(base.tuning, choices),
        **changes,
    )


def _base(choices: Mapping[str, Any]) -> Recipe:
    if PRESET in choices and PROFILE in choices:
        raise SchemeError("a preset and a profile both choose types; choose one of them")
    if PROFILE in choices:
        return profiled(choices[PROFILE])
    return PRESETS[choices[PRESET]] if PRESET in choices else Recipe()


def _tuning(settings: TuningSettings | None, choices: Mapping[str, Any]) -> TuningSettings | None:
    """Settings of tuning: those of the preset, changed by the choices."""
    if TUNE in choices:
        settings = (settings or TuningSettings()) if choices[TUNE] else None
    changes = {field: choices[name] for name, field in TUNING_FIELDS.items() if name in choices}
    if changes and settings is None:
        raise SchemeError("--tune-windows and --tune-passes require --tune")
    return settings and replace(settings, **changes)


def _chosen(choices: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: choices[name] for name in names if name in choices}
