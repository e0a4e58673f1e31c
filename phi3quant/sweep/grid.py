"""Grid of a sweep: models, recipes and the text to score on, from a TOML file or from names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from phi3quant.disk.untrusted_toml import read_toml
from phi3quant.errors import InputError, SchemeError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.run.choices import PRESET, recipe_of_choices
from phi3quant.run.recipe import Recipe
from phi3quant.sweep.axes import AXES, METHOD, Axis
from phi3quant.sweep.layouts import with_layout
from phi3quant.units import unknown

MOST_JOBS = 1000
"""Jobs of the largest grid; a mistake multiplies quickly."""

DEFAULT_METHOD = "awq"

_KEYS = ("models", "recipes", "text")
_MODEL_KEYS = ("name", "revision", "adapters")
_TEXT_KEYS: Mapping[str, tuple[str, type]] = {
    "source": ("source", str),
    "field": ("field", str),
    "window": ("length", int),
    "max-tokens": ("max_tokens", int),
}


@dataclass(frozen=True)
class ModelEntry:
    """A model of a grid.

    Attributes:
        name: folder, hub id or ``phi3-tiny``.
        revision: revision of a hub id.
        adapters: adapters to merge, as for ``--adapter``.
    """

    name: str
    revision: str | None = None
    adapters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join([self.name, *self.adapters])


@dataclass(frozen=True)
class GridRecipe:
    """A recipe of a grid.

    Attributes:
        recipe: all its choices.
        preset: preset that it starts from; empty if there is none.
    """

    recipe: Recipe
    preset: str = ""


@dataclass(frozen=True)
class Grid:
    """Models and recipes to combine.

    Attributes:
        models: models, each once.
        recipes: recipes, each once.
        text: text to score on.
    """

    models: tuple[ModelEntry, ...]
    recipes: tuple[GridRecipe, ...]
    text: EvaluationText = field(default_factory=EvaluationText)

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("the grid has no models; list them under models, or pass --models")
        if not self.recipes:
            raise InputError("the grid has no recipes; add [[recipes]] tables, or pass --presets")
        _check_count(len(self.models) * len(self.recipes), "the grid")


def read_grid(path: Path, models: Sequence[str] = (), presets: Sequence[str] = ()) -> Grid:
    """Read a grid.

    Args:
        path: TOML file.
        models: models in place of those in the file.
        presets: presets in place of the recipes in the file.

    Raises:
        InputError: the file can't be read, or has a key or value that isn't supported.
        SchemeError: choices of a recipe exclude each other.
    """
    content = read_toml(path)
    _check_keys(content, _KEYS, str(path))
    entries = models or _listed(content.get("models", []), f"{path}: models")
    return Grid(
        _once(_model(entry, f"{path}: model {number}") for number, entry in enumerate(entries, 1)),
        preset_recipes(presets) if presets else _recipes(content.get("recipes", []), path),
        _text(content.get("text", {}), f"{path}: text"),
    )


def grid_of(models: Sequence[str], presets: Sequence[str]) -> Grid:
    """Grid of models and presets by their names.

    Raises:
        InputError: one of the two is empty.
    """
    return Grid(_once(map(ModelEntry, models)), preset_recipes(presets))


def preset_recipes(presets: Sequence[str]) -> tuple[GridRecipe, ...]:
    """Recipes of presets, by AWQ."""
    return tuple(
        GridRecipe(recipe_of_choices(DEFAULT_METHOD, {PRESET: name}), name)
        for name in dict.fromkeys(presets)
    )


def _recipes(tables: Any, path: Path) -> tuple[GridRecipe, ...]:
    recipes: list[GridRecipe] = []
    for number, table in enumerate(_listed(tables, f"{path}: recipes"), 1):
        where = f"{path}: recipes table {number}"
        if not isinstance(table, Mapping):
            raise InputError(f"{where} is not a table; write [[recipes]] above its keys")
        recipes += _combinations(table, where)
        _check_count(len(recipes), str(path))
    return _once(recipes)


def _combinations(table: Mapping[str, Any], where: str) -> list[GridRecipe]:
    """Recipes of all combinations of the values in a table."""
    _check_keys(table, AXES, where)
    axes = {AXES[key].choice: _values(AXES[key], key, table[key], where) for key in table}
    _check_count(prod(map(len, axes.values())), where)
    recipes = []
    for values in product(*axes.values()):
        choices = dict(zip(axes, values, strict=True))
        method = choices.pop(METHOD, DEFAULT_METHOD)
        try:
            recipe = with_layout(recipe_of_choices(method, choices), choices)
        except SchemeError as error:
            raise SchemeError(f"{where}: {error}") from None
        recipes.append(GridRecipe(recipe, choices.get(PRESET, "")))
    return recipes


def _values(axis: Axis, key: str, entered: Any, where: str) -> list[Any]:
    try:
        return axis.values(entered)
    except InputError as error:
        raise InputError(f"{where}: {key}: {error}") from None


def _model(entry: Any, where: str) -> ModelEntry:
    if isinstance(entry, str):
        return ModelEntry(_filled(entry, where))
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is neither a name in quotes nor a table with name")
    _check_keys(entry, _MODEL_KEYS, where)
    adapters = _listed(entry.get("adapters", []), f"{where}: adapters")
    revision = entry.get("revision")
    return ModelEntry(
        _filled(entry.get("name"), f"{where}: name"),
        None if revision is None else _filled(revision, f"{where}: revision"),
        tuple(_filled(adapter, f"{where}: adapters") for adapter in adapters),
    )


def _text(table: Any, where: str) -> EvaluationText:
    if not isinstance(table, Mapping):
        raise InputError(f"{where} is not a table; write [text] above its keys")
    _check_keys(table, _TEXT_KEYS, where)
    text = EvaluationText()
    for key, value in table.items():
        name, kind = _TEXT_KEYS[key]
        if kind is str:
            _filled(value, f"{where}: {key}")
        elif isinstance(value, bool) or not isinstance(value, int) or not 2 <= value < 1 << 62:
            raise InputError(f"{where}: {key} must be a whole number from 2 on")
        text = replace(text, **{name: value})
    return text


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list in square brackets")
    return value


def _filled(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(f"{where} must be a text in quotes")
    return value


def _check_keys(
    table: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any], where: str
) -> None:
    for key in table:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, known)}")


def _check_count(count: int, where: str) -> None:
    if count > MOST_JOBS:
        raise InputError(
            f"{where} has {count:,} combinations, and a sweep at most {MOST_JOBS:,}; "
            "split it into several sweeps with the same -o, which share their cache"
        )


def _once(entries: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(entries))
