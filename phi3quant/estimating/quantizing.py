"""Memory and disk that quantizing takes: a model fitted to measured runs of this program.

Peaks it was fitted to: ``rtn`` of phi3-tiny 0.39 GB; of a model of 135M parameters 0.59 GB, and
``awq`` of it 1.31 GB; at Phi-3-mini's size ``export gguf`` 0.71 GB, ``rtn`` to ONNX 1.16 GB, and to
ONNX and a packed folder at once 1.49 GB.
"""

import math
from dataclasses import dataclass

from phi3quant.model.architecture import linear_shapes, tensor_shapes
from phi3quant.model.config import Phi3Config

# Python with its libraries.
_BASE = 380_000_000
# The largest matrix in FP32 is there so many times.
_LARGEST = (0.8, 3.0)
# Of a block, its Gram matrices and the calibration's hidden states, all in FP32; the states of the
# original and of the quantized model, and what there is inside a block.
_BLOCK, _GRAMS, _STATES = (1.0, 3.0), (1.0, 4.0), (2.0, 7.0)
_WINDOWS, _WINDOW_TOKENS = 64, 512
_FLOAT, _HALF = 4, 2


@dataclass(frozen=True)
class QuantizingCost:
    """What quantizing takes.

    Attributes:
        memory: least and most resident bytes to expect.
        source_bytes: of the checkpoint in 16 bits.
        output_bytes: of what is written.
    """

    memory: tuple[int, int]
    source_bytes: int
    output_bytes: int


def quantizing_cost(config: Phi3Config, method: str, output_bytes: int) -> QuantizingCost:
    """Memory and disk of a run.

    Args:
        config: the model's sizes.
        method: rtn, awq or gptq; the latter two with 64 calibration windows of 512 tokens.
        output_bytes: of the artifact.
    """
    sizes = [math.prod(shape) for shape in tensor_shapes(config).values()]
    largest = max(sizes) * _FLOAT
    shapes = linear_shapes(config).values()
    block = sum(rows * columns for rows, columns in shapes) * _FLOAT
    grams = sum(columns**2 for _, columns in shapes) * _FLOAT
    states = _WINDOWS * _WINDOW_TOKENS * config.hidden_size * _FLOAT
    memory = []
    for end in (0, 1):
        total = _BASE + _LARGEST[end] * largest
        if method != "rtn":
            total += _BLOCK[end] * block + _GRAMS[end] * grams + _STATES[end] * states
        memory.append(int(total))
    return QuantizingCost((memory[0], memory[1]), sum(sizes) * _HALF, output_bytes)
