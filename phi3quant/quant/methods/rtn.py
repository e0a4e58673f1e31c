"""Round to nearest (RTN), the baseline without calibration."""

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.quant.block import QuantizedBlock, rounded_norms
from phi3quant.quant.codecs import Codecs
from phi3quant.team import ALONE, Team, shared


def quantize_block(block: Block, codecs: Codecs, team: Team = ALONE) -> QuantizedBlock:
    """Round the linears of a block to the nearest codes, and its norms to FP16.

    Args:
        block: FP32 tensors.
        codecs: codec of each linear.
        team: team that shares the linears.

    Raises:
        SchemeError: a codec doesn't fit the block's shapes.
    """
    norms = rounded_norms(block)
    costs = [block[name].numel() for name in LINEARS]
    linears = shared(team, LINEARS, lambda name: codecs[name].quantize(block[name]), costs)
    return QuantizedBlock(norms, dict(zip(LINEARS, linears, strict=True)), losses={}, folds={})
