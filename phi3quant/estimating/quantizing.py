"""Memory and disk needed to quantize, by the same formulas as the preflight of a run."""

import math
from dataclasses import dataclass

from phi3quant.model.architecture import tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.run.memory_budget import Calibrated, needs

_CALIBRATED = Calibrated(windows=64, length=512, compensate=True)
"""Default sizes of awq and gptq."""
_HALF = 2


@dataclass(frozen=True)
class QuantizingCost:
    """Memory and disk needed to quantize a model.

    Attributes:
        memory: resident bytes with the hidden states on disk, and with all of them in memory.
        source_bytes: bytes of the checkpoint with 16-bit weights.
        output_bytes: bytes of the artifact.
    """

    memory: tuple[int, int]
    source_bytes: int
    output_bytes: int


def quantizing_cost(config: Phi3Config, method: str, output_bytes: int) -> QuantizingCost:
    """Estimate the memory and disk needed to quantize a model.

    Args:
        config: configuration of the model.
        method: rtn, awq or gptq; the latter two with 64 calibration windows of 512 tokens.
        output_bytes: bytes of the artifact.
    """
    need = needs(config, None if method == "rtn" else _CALIBRATED)
    weights = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    return QuantizingCost((need.memory, need.memory + need.states), weights * _HALF, output_bytes)
