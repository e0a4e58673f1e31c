"""GPTQ: codes of which the later ones of a row make up for the errors of the earlier ones.

By itself, or on top of the folds and codes of another method. Frantar et al., "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers", 2022.
"""

from collections.abc import Mapping

from phi3quant.codecs import Codecs
from phi3quant.config import Phi3Config
from phi3quant.folds import FOLDS
from phi3quant.gram import Gram
from phi3quant.layout import LINEARS, Block
from phi3quant.qblock import QuantizedBlock
from phi3quant.qtensor import Quantized


def quantize_block(
    block: Block, grams: Mapping[str, Gram], _config: Phi3Config, codecs: Codecs
) -> QuantizedBlock:
    """Round with the scales that lose least output: what compensation starts from, without folds.

    Args:
        block: FP32 tensors.
        grams: input statistics of each of layout.LINEARS.
        codecs: how each linear is stored.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    norms = {key: value.half().float() for key, value in block.items() if key not in LINEARS}
    linears = {name: codecs[name].quantize_fitted(block[name], grams[name]) for name in LINEARS}
    return QuantizedBlock(norms, linears, losses={}, folds={})


def compensated(
    block: Block,
    quantized: QuantizedBlock,
    grams: Mapping[str, Gram],
    config: Phi3Config,
    codecs: Codecs,
) -> dict[str, Quantized]:
    """Compensated codes for each linear of a block that was quantized already.

    Args:
        block: FP32 tensors, before any fold.
        quantized: whose folds are kept.
        grams: input statistics of the block before the folds.
        config: the model's.
        codecs: how each linear is stored.

    Returns:
        By linear, for those whose codec can compensate.
    """
    folded: Block = block
    for name, scales in quantized.folds.items():
        folded = FOLDS[name].apply(folded, scales, config)
    found = {}
    for name in LINEARS:
        gram = grams[name]
        if name in quantized.folds:
            gram = gram.divided(FOLDS[name].per_column(quantized.folds[name], config))
        tensor = codecs[name].quantize_compensated(folded[name], gram)
        if tensor is not None:
            found[name] = tensor
    return found
