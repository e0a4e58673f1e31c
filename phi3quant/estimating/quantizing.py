"""Memory and disk that quantizing needs; counted as the preflight of a run counts them."""

import math
from dataclasses import dataclass

from phi3quant.model.architecture import tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.run.memory_budget import Calibrated, needs

_CALIBRATED = Calibrated(windows=64, length=512, compensate=True)
"""Defaults of awq and gptq."""
_HALF = 2


@dataclass(frozen=True)
class QuantizingCost:
    """Memory and disk of a run.

    Attributes:
        memory: resident bytes with the hidden states on disk, and with all of them in memory.
        source_bytes: of the checkpoint in 16 bits.
        output_bytes: of the artifact.
    """

    memory: tuple[int, int]
    source_bytes: int
    output_bytes: int


def quantizing_cost(config: Phi3Config, method: str, output_bytes: int) -> QuantizingCost:
    """Memory and disk of a run.

    Args:
        config: of the model.
        method: rtn, awq or gptq; the latter two with 64 calibration windows of 512 tokens.
        output_bytes: of the artifact.
    """
    need = needs(config, None if method == "rtn" else _CALIBRATED)
    weights = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    return QuantizingCost((need.memory, need.memory + need.states), weights * _HALF, output_bytes)
