"""Memory and disk that a run needs, computed before it starts and without loading torch.

The need of a step is the sum of the tensors that it holds at once; tests compare it with measured
peaks. A limit on memory decides only where hidden states are stored, so that it never changes a
result.
"""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from calib.batches import BATCH_TOKENS
from phi3quant.disk.ordered_writer import WAITING_BYTES
from phi3quant.errors import MemoryLimitError
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS
from phi3quant.model.config import Phi3Config
from phi3quant.run import control_groups
from phi3quant.units import size

_FULL = 4
"""Bytes of an FP32 number."""
# Bytes per weight of unpacked codes, with scales and zero points.
_CODES = 1.1
# Bytes of libraries and compiled code, and of the part that only calibration uses.
_LIBRARIES, _CALIBRATING = 500_000_000, 80_000_000
# Bytes of a GPU's memory for its libraries, and for the tries of a search.
_GPU_LIBRARIES, _TRIES = 700_000_000, 1_000_000_000

# Share of the available memory that a run may need before it saves memory.
_MODEST = 0.7


class Place(Enum):
    """Place of the hidden states."""

    DEVICE = "in the memory of the device that computes"
    HOST = "in the host's memory"
    DISK = "on disk"


@dataclass(frozen=True)
class Calibrated:
    """Sizes of a calibrated run.

    Attributes:
        windows, length: number and length of the calibration windows.
        compensate: whether errors are compensated.
    """

    windows: int
    length: int
    compensate: bool


@dataclass(frozen=True)
class Needs:
    """Memory and disk that a run needs.

    Attributes:
        memory: resident bytes at the peak, without the hidden states.
        states: bytes of the hidden states.
        disk: bytes in addition to the output.
    """

    memory: int
    states: int
    disk: int

    @property
    def gpu_memory(self) -> int:
        """Bytes of a GPU's memory at the peak, without the hidden states."""
        return self.memory - _LIBRARIES + _GPU_LIBRARIES + _TRIES


def needs(config: Phi3Config, run: Calibrated | None, product_bytes: int = 2) -> Needs:
    """Compute the memory and disk that a run needs.

    Args:
        config: configuration of the model.
        run: sizes of the run; None for a method without calibration.
        product_bytes: bytes of a number in products (see phi3quant.model.precision); most machines
            multiply in BF16.
    """
    shapes = [BLOCK_TENSORS[name].shape(config) for name in LINEARS]
    sizes = [rows * columns for rows, columns in shapes]
    table = config.vocab_size * config.hidden_size
    # Embedding or head, as stored and as FP16.
    outside = 4 * table
    if run is None:
        # A block as stored, or its matrices as codes and packed.
        held = max(outside, sum(sizes) * 3)
        return Needs(int(_LIBRARIES + held + WAITING_BYTES), 0, 0)
    block, codes = sum(sizes), _CODES * sum(sizes)
    grams = _FULL * sum(columns**2 for _, columns in shapes)
    widest = max(columns for _, columns in shapes)
    activations = _FULL * BATCH_TOKENS * (4 * config.intermediate_size + 2 * config.hidden_size)
    # FP32 products need no copy of the block.
    products = 0 if product_bytes == _FULL else product_bytes * block
    held = _FULL * block + grams
    steps = [
        outside,
        _FULL * block + products + grams + activations,
        held + 2 * codes + 2 * _FULL * block + activations,
        # Candidates for the largest matrix, and their Gram matrices.
        held + 2 * codes + 3 * _FULL * max(sizes) + 3 * _FULL * widest**2,
    ]
    if run.compensate:
        # Two FP64 matrices, and their FP32 source or the remaining weights.
        steps.append(held + 3 * codes + _FULL * max(sizes) + 5 * _FULL * widest**2)
        # The block before and after its folds, both models' matrices ready for products, sums of
        # two kinds, and the activations of both models.
        both = 2 * (_FULL * block + products) + 2 * codes
        steps.append(both + (2 * widest + config.hidden_size) * _FULL * widest + 2 * activations)
    tokens, width = run.windows * run.length, config.hidden_size
    states = _FULL * tokens * width
    if run.compensate:
        # States of the original too, and those inside a block: attention's, the middle, the MLP's.
        inside = _FULL * (config.query_rows + width)
        inside += product_bytes * config.intermediate_size
        states += tokens * (_FULL * width + inside)
    journal = config.num_hidden_layers * (codes // 2 + block // 16)
    return Needs(int(_LIBRARIES + _CALIBRATING + max(steps)), states, int(journal))


def in_memory(need: Needs, limit: int | None) -> bool:
    """Whether the hidden states stay in memory.

    Args:
        need: result of ``needs``.
        limit: limit on bytes; None for the available memory.

    Raises:
        MemoryLimitError: memory is too small even without the hidden states.
    """
    available = available_memory()
    room = available if limit is None else limit
    if need.memory > room:
        what = "--max-memory is" if limit is not None else "the system has"
        raise MemoryLimitError(
            f"this needs about {size(need.memory)} of memory and {what} "
            f"{size(room)}"
            + (
                "; allow more"
                if limit is not None
                else " available; close other programs, or pass --max-memory to try anyway"
            )
        )
    return need.memory + need.states <= room


def leaves_room(need: Needs, limit: int | None) -> bool:
    """Whether so much memory stays free that freed memory can be kept for reuse.

    Args:
        need: result of ``needs``.
        limit: limit on bytes, which was meant to save memory; None for the available memory.
    """
    return limit is None and need.memory + need.states <= _MODEST * available_memory()


def place_for_gpu(need: Needs, limit: int | None, free: int | None) -> Place:
    """Place of the hidden states if a GPU computes.

    Args:
        need: result of ``needs``.
        limit: limit on bytes of the GPU's memory; None for what is free.
        free: free bytes of the GPU's memory; None if it is the host's.

    Raises:
        MemoryLimitError: the GPU's memory is too small even without the hidden states.
    """
    host = available_memory()
    free = host if free is None else free
    room = free if limit is None else min(limit, free)
    if need.gpu_memory > room:
        reason = "--max-memory is" if limit is not None and limit <= free else "the GPU has"
        raise MemoryLimitError(
            f"this needs about {size(need.gpu_memory)} of the GPU's memory and {reason} "
            f"{size(room)}; allow more, close other programs that use the GPU, or pass --device cpu"
        )
    if need.gpu_memory + need.states <= room:
        return Place.DEVICE
    return Place.HOST if need.states + _LIBRARIES <= host else Place.DISK


def available_memory() -> int:
    """Bytes that can be allocated now without swapping or an out-of-memory kill."""
    return min([_machine_memory(), *control_groups.rooms()])


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        entries = dict(line.split(":", 1) for line in lines)
        return int(entries["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Other systems don't report available memory, so all memory counts.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
