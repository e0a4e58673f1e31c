"""Stored parts of packed checkpoints."""

from dataclasses import replace
from functools import partial

from converters.packed.reader import PackedCheckpoint
from converters.parts import Parts, safetensors_parts
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD


def with_packed_ends(model: PackedCheckpoint, parts: Parts) -> Parts:
    """Parts whose embedding and head are codes where they are packed, for the same layout."""
    head = EMBEDDING if model.config.tie_word_embeddings else HEAD
    return replace(
        parts,
        embedding=partial(model.outer_codes, EMBEDDING),
        head=partial(model.outer_codes, head),
    )


def packed_parts(model: PackedCheckpoint) -> Parts:
    """Parts of a packed checkpoint, with codes wherever their groups are consecutive.

    Raises:
        CheckpointError: an index of groups contradicts config.json, or a scale is not finite.
    """
    try:
        fitting = model.with_codes(real_offsets=True)
    except SchemeError as error:
        return safetensors_parts(model, None, model.dequantized, unfit=str(error))
    offsets = ""
    if fitting.real_offsets:
        try:
            model.with_codes()
        except SchemeError as error:
            offsets = str(error)
    return safetensors_parts(fitting, fitting.schemes, fitting.matrix, offsets=offsets)
