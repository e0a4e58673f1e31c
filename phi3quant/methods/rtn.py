"""Round to nearest: the baseline that needs no calibration."""

from phi3quant.codecs import affine
from phi3quant.layout import LINEARS, Block
from phi3quant.qblock import QuantizedBlock
from phi3quant.scheme import QuantScheme


def quantize_block(block: Block, scheme: QuantScheme) -> QuantizedBlock:
    """Round every linear of a block to nearest; norms stay, as far as FP16 holds them.

    Args:
        block: FP32 tensors.
        scheme: bits, group size, symmetry.

    Raises:
        SchemeError: the scheme doesn't fit the block's shapes.
    """
    norms = {key: value.half().float() for key, value in block.items() if key not in LINEARS}
    linears = {name: affine.quantize(block[name], scheme) for name in LINEARS}
    return QuantizedBlock(norms, linears, losses={}, folds={})
