"""Stored parts of packed checkpoints."""

import torch

from converters.packed.reader import PackedCheckpoint
from converters.parts import Parts, safetensors_parts
from phi3quant.errors import SchemeError
from phi3quant.quant.tensor import Quantized


def packed_parts(model: PackedCheckpoint) -> Parts:
    """Parts of a packed checkpoint, with codes wherever their groups are consecutive.

    Raises:
        CheckpointError: an index of groups contradicts config.json.
    """

    def linear(index: int, key: str) -> torch.Tensor | Quantized:
        if model.has_codes(index, key):
            return model.quantized(index, key)
        return model.dequantized(index, key)

    unfit = ""
    try:
        model.check_codes()
    except SchemeError as error:
        unfit = str(error)
    return safetensors_parts(model, model.scheme, linear, unfit)
