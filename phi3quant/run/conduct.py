"""Conduct of a run: device, resuming, memory, verification."""

from collections.abc import Callable
from dataclasses import dataclass, field

from phi3quant.model.device import AUTO
from phi3quant.run.assignment import Teams
from phi3quant.run.draft import Judge
from phi3quant.run.shared_work import SharedWork


@dataclass(frozen=True)
class Conduct:
    """Conduct of a run.

    Only the device changes weights, by rounding: its sums have another order.

    Attributes:
        resume: whether to continue after the finished blocks of an earlier run for the same output.
        max_memory: limit on resident bytes, or on bytes of the GPU's memory if a GPU computes; None
            for the available memory.
        say: receives lines for the user.
        judge: verification of the result before it is published; None to skip it.
        device: device to compute on; see phi3quant.model.device.find_device.
        shared: work that several runs of one model share.
        teams: former of teams that share the calibration; None: this process does all.
    """

    resume: bool = False
    max_memory: int | None = None
    say: Callable[[str], None] = lambda _line: None
    judge: Judge | None = None
    device: str = AUTO
    shared: SharedWork = field(default_factory=SharedWork, compare=False, repr=False)
    teams: Teams | None = None
