"""Preflight: check of memory and disk before a run, and a forecast for large runs."""

from collections.abc import Callable
from pathlib import Path

from phi3quant import units
from phi3quant.disk.output import check_space
from phi3quant.model.config import Phi3Config
from phi3quant.model.precision import product_dtype
from phi3quant.run import memory_budget, time_estimate

# Bytes of memory and disk from which a run is large enough for a forecast.
_LARGE = 2 << 30


def check(
    config: Phi3Config,
    run: memory_budget.Calibrated | None,
    output: tuple[Path, int],
    limit: int | None,
    say: Callable[[str], None],
) -> bool:
    """Refuse a run without enough memory or disk, and report the needs of a large run.

    Args:
        config: configuration of the model.
        run: sizes of the run; None for a method without calibration.
        output: folder of the output, and its bytes.
        limit: limit on resident bytes; None for the available memory.
        say: receives a line about a large run; for a calibrated one the machine is first timed for
            a third of a second.

    Returns:
        Whether hidden states stay in memory.

    Raises:
        MemoryLimitError: there is not enough memory.
        OutputError: there is not enough room on the disk.
    """
    folder, size = output
    need = memory_budget.needs(config, run, product_dtype().itemsize)
    in_memory = memory_budget.in_memory(need, limit)
    disk = size + need.disk + (0 if in_memory else need.states)
    check_space(folder, disk)
    if disk + need.memory >= _LARGE:
        memory = need.memory + (need.states if in_memory else 0)
        where = "" if in_memory else f" ({units.size(need.states)} of it hidden states)"
        parts = [f"{units.size(memory)} of memory", f"{units.size(disk)} of disk{where}"]
        if run is not None:
            duration = _roughly(time_estimate.seconds(config, run, time_estimate.measured()))
            parts.append(f"{duration} for all blocks")
        say(f"expected: {', '.join(parts)}")
    return in_memory


def _roughly(seconds: float) -> str:
    """Approximate duration as text."""
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
