"""Table of the methods that choose codes, functions of (block, statistics, config, codecs)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.gram import Gram
from phi3quant.quant.methods import awq, gptq, rtn

BlockQuantizer = Callable[[Block, Mapping[str, Gram], Phi3Config, Codecs], QuantizedBlock]


@dataclass(frozen=True)
class Method:
    """A method that chooses codes.

    Attributes:
        title: name in tables and manifests.
        calibrated: whether it requires statistics of calibration text.
        quantize_block: the function; it receives empty statistics if ``calibrated`` is false.
    """

    title: str
    calibrated: bool
    quantize_block: BlockQuantizer


METHODS: Mapping[str, Method] = {
    "rtn": Method(
        "RTN",
        calibrated=False,
        quantize_block=lambda block, _grams, _config, codecs: rtn.quantize_block(block, codecs),
    ),
    "awq": Method("AWQ", calibrated=True, quantize_block=awq.quantize_block),
    "gptq": Method("GPTQ", calibrated=True, quantize_block=gptq.quantize_block),
}
"""Methods by their names on the command line."""
