"""Round to nearest: the baseline that needs no calibration."""

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.quant.block import QuantizedBlock, rounded_norms
from phi3quant.quant.codecs import Codecs


def quantize_block(block: Block, codecs: Codecs) -> QuantizedBlock:
    """Round every linear of a block to nearest; norms stay, as far as FP16 holds them.

    Args:
        block: FP32 tensors.
        codecs: how each linear is stored.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    norms = rounded_norms(block)
    linears = {name: codecs[name].quantize(block[name]) for name in LINEARS}
    return QuantizedBlock(norms, linears, losses={}, folds={})
