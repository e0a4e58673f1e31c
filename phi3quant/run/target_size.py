"""Sizes of a run's output, and types that keep it within a target size."""

from collections.abc import Sequence

import torch

from converters.format import Format
from phi3quant.model.config import Phi3Config
from phi3quant.progress import Progress
from phi3quant.run import mixed_types
from phi3quant.run.mixed_widths import Widths, bytes_at
from phi3quant.run.recipe import Recipe
from phi3quant.source.checkpoint import Checkpoint


def check_target(recipe: Recipe, formats: Sequence[Format], config: Phi3Config) -> None:
    """Refuse a target size that excludes other choices, or that can't be reached.

    Raises:
        SchemeError: there is one; the message names it.
    """
    recipe.check_target()
    if recipe.target_bpw is None:
        return
    if recipe.chooses_gguf_types:
        mixed_types.check_target(config, recipe.target_bpw)
    else:
        Widths(formats, recipe.scheme, recipe.target_bpw, config).check()


def output_bytes(recipe: Recipe, formats: Sequence[Format], config: Phi3Config) -> int:
    """Bytes of the weights in all formats; with a target size, at most."""
    if recipe.target_bpw is not None:
        return len(formats) * bytes_at(config, recipe.target_bpw)
    schemes = recipe.schemes(config)
    return sum(entry.nbytes(config, schemes) for entry in formats)


def with_types(
    recipe: Recipe,
    formats: Sequence[Format],
    model: Checkpoint,
    ids: torch.Tensor,
    progress: Progress,
) -> Recipe:
    """The recipe with every matrix' type chosen by measured loss.

    Args:
        recipe: recipe with a target size.
        formats: its formats.
        model: model in full precision.
        ids: calibration windows, int64 [windows, length].
        progress: display of the blocks.
    """
    target = recipe.target_bpw
    assert target is not None
    if recipe.chooses_gguf_types:
        types = mixed_types.mixed_types(model, ids, target, progress, compensate=recipe.compensate)
        return recipe.with_types(types)
    widths = Widths(formats, recipe.scheme, target, model.config)
    return recipe.with_widths(widths.narrow, widths.choose(model, ids, progress))
