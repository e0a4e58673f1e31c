"""Model of a team's speed: time and bytes of one block of Phi-3-mini by the number of nodes.

Bytes follow from the shapes (ADR 0033); tests compare them with those that a team exchanges.
Processor times of a block were measured on one core (docs/cluster.md names the command).

    python -m benchmarks.team_scaling --samples 64 --cores 8 --gigabits 10
"""

from collections.abc import Mapping
from dataclasses import dataclass

from calib.share import Share
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS
from phi3quant.model.config import Phi3Config
from phi3quant.run.one_block import SEARCH_TOKENS, held_back_windows

_FULL = 4
# Bytes of a weight's code, with its share of a scale.
_CODE = 1 + 2 / 32


@dataclass(frozen=True)
class Traffic:
    """Bytes that a member receives for one block.

    Attributes:
        batches: activations of other members' batches.
        sums: stripes that other members have computed.
        codes: codes of linears and rows that other members have chosen.
    """

    batches: float
    sums: float
    codes: float

    @property
    def total(self) -> float:
        """All bytes."""
        return self.batches + self.sums + self.codes


def traffic(config: Phi3Config, windows: int, length: int, members: int) -> Traffic:
    """Bytes that a member receives on average for a block of AWQ with compensation.

    Args:
        config: configuration of the model.
        windows: calibration windows, with those that are held back.
        length: tokens per window.
        members: number of members.
    """
    learned = Share(windows - held_back_windows(windows), length)
    tokens = learned.tokens(learned.batches)
    searched = learned.tokens(learned.enough(SEARCH_TOKENS))
    shapes = {name: BLOCK_TENSORS[name].shape(config) for name in LINEARS}
    others = (members - 1) / members
    batches = sums = codes = 0.0
    for name, (rows, width) in shapes.items():
        residual = rows if name in ("o_proj", "down_proj") else 0
        batches += others * _FULL * width * searched
        # The inputs whole, and the columns of both differences that this member sums.
        batches += others * _FULL * tokens * (width + (width + residual) / members)
        sums += others * _FULL * (width**2 / 2 * 2 + width**2 + residual * width)
        # Plain rounding, the choice of the method, and compensated rows.
        codes += others * 3 * _CODE * rows * width
    return Traffic(batches, sums, codes)


# Processor seconds of one core for a block of mini-4k.
FIXED: Mapping[str, float] = {}
"""Steps that every member does, or that others wait for; independent of the windows."""
