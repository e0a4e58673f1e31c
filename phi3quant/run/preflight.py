"""Preflight: check of memory and disk before a run, and a forecast for large runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from phi3quant import units
from phi3quant.disk.output import check_space
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU, free_memory
from phi3quant.model.precision import product_dtype
from phi3quant.run import memory_budget, time_estimate
from phi3quant.run.memory_budget import Needs, Place

# Bytes of memory and disk from which a run is large enough for a forecast.
_LARGE = 2 << 30


@dataclass(frozen=True)
class Room:
    """Use of the memory in a run.

    Attributes:
        place: place of the hidden states.
        keeps_freed: whether freed memory is kept for reuse.
    """

    place: Place
    keeps_freed: bool


def check(
    config: Phi3Config,
    run: memory_budget.Calibrated | None,
    output: tuple[Path, int],
    limit: int | None,
    say: Callable[[str], None],
    device: torch.device = CPU,
) -> Room:
    """Refuse a run without enough memory or disk, and report the needs of a large run.

    Args:
        config: configuration of the model.
        run: sizes of the run; None for a method without calibration.
        output: folder of the output, and its bytes.
        limit: limit on bytes of the memory that the device uses; None for the available memory.
        say: receives a line about a large run; before that, a CPU that will calibrate is timed for
            less than half a second.
        device: device that computes.

    Returns:
        Use of the memory.

    Raises:
        MemoryLimitError: there is not enough memory.
        OutputError: there is not enough room on the disk.
    """
    folder, size = output
    need = memory_budget.needs(config, run, product_dtype(device).itemsize)
    place = place_of_states(need, limit, device)
    disk = size + need.disk + (need.states if place is Place.DISK else 0)
    check_space(folder, disk)
    if disk + need.memory >= _LARGE:
        states = need.states if place is Place.DEVICE else 0
        parts = [f"{units.size(need.memory + states)} of memory"]
        if device.type != "cpu":
            parts = [f"{units.size(need.gpu_memory + states)} of the GPU's memory"]
        parts.append(f"{units.size(disk)} of disk")
        if place is not Place.DEVICE:
            kept = f"{units.size(need.states)} of hidden states"
            parts.append(f"{kept} {place.value}")
        if run is not None and device.type == "cpu":
            duration = _roughly(time_estimate.seconds(config, run, time_estimate.measured()))
            parts.append(f"{duration} for all blocks")
        say(f"expected: {', '.join(parts)}")
    calibrates = run is not None and device.type == "cpu"
    return Room(place, calibrates and memory_budget.leaves_room(need, limit))


def place_of_states(need: Needs, limit: int | None, device: torch.device = CPU) -> Place:
    """Place of the hidden states.

    Args:
        need: memory that a run needs.
        limit: limit on bytes of the memory that the device uses; None for the available memory.
        device: device that computes.

    Raises:
        MemoryLimitError: there is not enough memory.
    """
    if device.type == "cpu":
        return Place.DEVICE if memory_budget.in_memory(need, limit) else Place.DISK
    return memory_budget.place_for_gpu(need, limit, free_memory(device))


def _roughly(seconds: float) -> str:
    """Approximate duration as text."""
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
