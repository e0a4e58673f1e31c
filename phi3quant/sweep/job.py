"""Jobs of a sweep: a model with a recipe, and the key of their result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from converters.onnx import writer as onnx_writer
from phi3quant.quant.methods import METHODS
from phi3quant.run.recipe import Recipe
from phi3quant.source.locate import Located
from phi3quant.sweep.grid import GridRecipe
from phi3quant.version import __version__

_DIGITS = 16
"""Hexadecimal digits of a key in file names."""


@dataclass(frozen=True)
class Subject:
    """A model of a sweep.

    Attributes:
        title: name for tables, as in the grid.
        located: place of the model, with its adapters.
        source: names and hashes of its files; see manifest.describe_source.
        nbytes: size of its weights.
        original: key of its predictions in full precision.
    """

    title: str
    located: Located
    source: Mapping[str, Any]
    nbytes: int
    original: str


@dataclass(frozen=True)
class Job:
    """A model with a recipe.

    Attributes:
        subject: model.
        recipe: recipe.
        label: name of the recipe for tables, unique for a model in a sweep.
        identity: everything that decides the result, as JSON values.
        memory: resident bytes at the peak.
    """

    subject: Subject
    recipe: Recipe
    label: str
    identity: Mapping[str, Any]
    memory: int

    @cached_property
    def key(self) -> str:
        """Key of the result, for file names."""
        return key_of(self.identity)

    def __str__(self) -> str:
        return f"{self.subject.title}, {self.label}"


def key_of(identity: Mapping[str, Any]) -> str:
    """Hash of JSON values, for file names."""
    text = json.dumps({"phi3quant": __version__, **identity}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def labels(recipes: Sequence[GridRecipe]) -> list[str]:
    """Names of recipes; those with one name get the choices in which they differ.

    Examples:
        >>> labels([GridRecipe(Recipe("rtn")), GridRecipe(Recipe("awq", formats=("gguf",)))])
        ['RTN int4 sym g32, compressed-tensors', 'AWQ int4 sym g32, gguf']
    """
    names = [_name(each) for each in recipes]
    details = [_details(each.recipe) for each in recipes]
    named = []
    for name, detail in zip(names, details, strict=True):
        alike = [other for each, other in zip(names, details, strict=True) if each == name]
        varied = [key for key in detail if len({other[key] for other in alike}) > 1]
        named.append(", ".join([name, *(detail[key] for key in varied)]))
    return named


def _name(entry: GridRecipe) -> str:
    recipe = entry.recipe
    title = METHODS[recipe.method].title
    types = [] if recipe.gguf_type is None else recipe.tensor_types
    kind = ", ".join([f"{title} {recipe}", *types, "+".join(recipe.formats)])
    preset = entry.preset or recipe.profile
    return f"{preset}: {kind}" if preset else kind


def _details(recipe: Recipe) -> dict[str, str]:
    """Choices that names leave out."""
    text, onnx = recipe.calibration, recipe.onnx
    outer = onnx if onnx_writer.FORMAT.name in recipe.formats else recipe.mlx
    return {
        "compensate": "compensated" if recipe.compensate else "not compensated",
        "source": " and ".join(map(str, text.sources)) or "bundled text",
        "samples": f"{text.samples} windows",
        "length": f"{text.length} tokens each",
        "seed": f"seed {text.seed}",
        "tuning": "not tuned" if recipe.tuning is None else f"tuned ({recipe.tuning})",
        "embedding": f"embedding {outer.embedding or 'by default'}",
        "head": f"head {outer.head or 'by default'}",
        "io": f"{onnx.io} in and out",
        "accuracy_level": f"accuracy level {onnx.accuracy_level}",
        "opset": f"opset {onnx.opset}",
    }
