"""Table of the methods that choose codes: functions of a block and its statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.gram import Gram
from phi3quant.quant.methods import awq, gptq, rtn
from phi3quant.team import ALONE, Team


class BlockQuantizer(Protocol):
    """Function that chooses the codes of a block."""

    def __call__(
        self,
        block: Block,
        grams: Mapping[str, Gram],
        config: Phi3Config,
        codecs: Codecs,
        team: Team = ALONE,
        /,
    ) -> QuantizedBlock:
        """Quantize a block; a team shares the work."""


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
        quantize_block=lambda block, _grams, _config, codecs, team=ALONE: rtn.quantize_block(
            block, codecs, team
        ),
    ),
    "awq": Method("AWQ", calibrated=True, quantize_block=awq.quantize_block),
    "gptq": Method("GPTQ", calibrated=True, quantize_block=gptq.quantize_block),
}
"""Methods by their names on the command line."""
