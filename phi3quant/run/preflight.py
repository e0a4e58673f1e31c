"""Preflight: memory, disk and time of a run, announced or refused before it starts."""

from collections.abc import Callable
from pathlib import Path

from phi3quant import units
from phi3quant.disk.output import check_space
from phi3quant.model.config import Phi3Config
from phi3quant.model.precision import product_dtype
from phi3quant.run import memory_budget, time_estimate

# Bytes from which on a run is large enough to say what it takes.
_WORTH_SAYING = 2 << 30


def check(
    config: Phi3Config,
    run: memory_budget.Calibrated | None,
    output: tuple[Path, int],
    limit: int | None,
    say: Callable[[str], None],
) -> bool:
    """Say what a run takes and refuse it if that isn't there.

    Args:
        config: of the model.
        run: None for a method without calibration.
        output: where the output goes, and its bytes.
        limit: bytes that may be resident; None: what the system has available.
        say: is told, if the run is a large one and nothing is refused; a calibrated one is then
            timed for a third of a second.

    Returns:
        Whether hidden states stay in memory.

    Raises:
        MemoryLimitError: memory doesn't suffice.
        OutputError: disk doesn't.
    """
    folder, size = output
    need = memory_budget.needs(config, run, product_dtype().itemsize)
    in_memory = memory_budget.in_memory(need, limit)
    disk = size + need.disk + (0 if in_memory else need.states)
    check_space(folder, disk)
    if disk + need.memory >= _WORTH_SAYING:
        memory = need.memory + (need.states if in_memory else 0)
        where = "" if in_memory else f" ({units.size(need.states)} of it hidden states)"
        parts = [f"{units.size(memory)} of memory", f"{units.size(disk)} of disk{where}"]
        if run is not None:
            lasting = _roughly(time_estimate.seconds(config, run, time_estimate.measured()))
            parts.append(f"{lasting} for all blocks")
        say(f"expected: {', '.join(parts)}")
    return in_memory


def _roughly(seconds: float) -> str:
    """A time to expect, for people."""
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
