"""Round to nearest (RTN), the baseline without calibration."""

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.quant.block import QuantizedBlock, rounded_norms
from phi3quant.quant.codecs import Codecs


def quantize_block(block: Block, codecs: Codecs) -> QuantizedBlock:
    """Round the linears of a block to the nearest codes, and its norms to FP16.

    Args:
        block: FP32 tensors.
        codecs: codec of each linear.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    norms = rounded_norms(block)
    linears = {name: codecs[name].quantize(block[name]) for name in LINEARS}
    return QuantizedBlock(norms, linears, losses={}, folds={})
