"""GPTQ without folds; the compensation itself is in codecs/compensation.py.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022.
"""

from collections.abc import Mapping

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock, rounded_norms
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.gram import Gram


def quantize_block(
    block: Block, grams: Mapping[str, Gram], _config: Phi3Config, codecs: Codecs
) -> QuantizedBlock:
    """Round with the scales that lose least output, as the starting point of compensation.

    Args:
        block: FP32 tensors.
        grams: statistics of the inputs, by linear (architecture.LINEARS).
        codecs: codec of each linear.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    norms = rounded_norms(block)
    linears = {name: codecs[name].quantize_fitted(block[name], grams[name]) for name in LINEARS}
    return QuantizedBlock(norms, linears, losses={}, folds={})
