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
from phi3quant.quant.tensor import Quantized
from phi3quant.team import ALONE, Team, shared


def quantize_block(
    block: Block,
    grams: Mapping[str, Gram],
    _config: Phi3Config,
    codecs: Codecs,
    team: Team = ALONE,
) -> QuantizedBlock:
    """Round with the scales that lose least output, as the starting point of compensation.

    Args:
        block: FP32 tensors.
        grams: statistics of the inputs, by linear (architecture.LINEARS).
        codecs: codec of each linear.
        team: team that shares the linears.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """

    def fitted(name: str) -> Quantized:
        return codecs[name].quantize_fitted(block[name], grams[name])

    linears = shared(team, LINEARS, fitted, [block[name].numel() for name in LINEARS])
    norms = rounded_norms(block)
    return QuantizedBlock(norms, dict(zip(LINEARS, linears, strict=True)), losses={}, folds={})
