"""Memory and disk that a run needs, known before it starts and without loading torch.

The steps' needs are counted from the sizes of what they hold at once; tests hold them against
measured peaks. A limit on memory decides where hidden states live and nothing else, so that it
never changes a result.
"""

import os
from dataclasses import dataclass
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
# Codes, and their scales and zero points.
_CODES = 1.1
# What libraries and their compiled code take, once all of it has been used: more of it calibrates.
_LIBRARIES, _CALIBRATING = 500_000_000, 80_000_000


@dataclass(frozen=True)
class Calibrated:
    """Sizes of a calibrated run.

    Attributes:
        windows, length: of the calibration text.
        compensate: whether errors are compensated for.
    """

    windows: int
    length: int
    compensate: bool


@dataclass(frozen=True)
class Needs:
    """What a run takes.

    Attributes:
        memory: resident bytes at the peak, the hidden states apart.
        states: bytes of the hidden states.
        disk: bytes beside the output's own.
    """

    memory: int
    states: int
    disk: int


def needs(config: Phi3Config, run: Calibrated | None, product_bytes: int = 2) -> Needs:
    """Memory and disk of a run.

    Args:
        config: of the model.
        run: None for a method without calibration.
        product_bytes: of a number in products, see phi3quant.model.precision; most machines
            multiply in BF16.
    """
    shapes = [BLOCK_TENSORS[name].shape(config) for name in LINEARS]
    sizes = [rows * columns for rows, columns in shapes]
    table = config.vocab_size * config.hidden_size
    # As stored and as FP16.
    outside = 4 * table
    if run is None:
        # The largest matrix as it is stored; two of them as codes and packed.
        held = max(outside, sum(sizes) * 3)
        return Needs(int(_LIBRARIES + held + WAITING_BYTES), 0, 0)
    block, codes = sum(sizes), _CODES * sum(sizes)
    grams = _FULL * sum(columns**2 for _, columns in shapes)
    widest = max(columns for _, columns in shapes)
    activations = _FULL * BATCH_TOKENS * (4 * config.intermediate_size + 2 * config.hidden_size)
    # FP32 products use the block as it is.
    products = 0 if product_bytes == _FULL else product_bytes * block
    held = _FULL * block + grams
    steps = [
        outside,
        _FULL * block + products + grams + activations,
        held + 2 * codes + 2 * _FULL * block + activations,
        # Candidates of the largest matrix and the Gram matrices that go with them.
        held + 2 * codes + 3 * _FULL * max(sizes) + 3 * _FULL * widest**2,
    ]
    if run.compensate:
        # Two FP64 matrices and the FP32 one that they are made of, or what is left of the weights.
        steps.append(held + 3 * codes + _FULL * max(sizes) + 5 * _FULL * widest**2)
        # The block, the same after its folds, both models' ready for products, sums of two kinds,
        # and the activations of both.
        both = 2 * (_FULL * block + products) + 2 * codes
        steps.append(both + (2 * widest + config.hidden_size) * _FULL * widest + 2 * activations)
    tokens, width = run.windows * run.length, config.hidden_size
    states = _FULL * tokens * width
    if run.compensate:
        # Of the original too, and inside a block: attention's, the middle, and the MLP's.
        inside = _FULL * (config.query_rows + width)
        inside += product_bytes * config.intermediate_size
        states += tokens * (_FULL * width + inside)
    journal = config.num_hidden_layers * (codes // 2 + block // 16)
    return Needs(int(_LIBRARIES + _CALIBRATING + max(steps)), states, int(journal))


def in_memory(need: Needs, limit: int | None) -> bool:
    """Whether the hidden states stay in memory.

    Args:
        need: from ``needs``.
        limit: bytes; None: what the system can give now.

    Raises:
        MemoryLimitError: it doesn't suffice even without them.
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
                else " available; close other programs, or pass --max-memory to try all the same"
            )
        )
    return need.memory + need.states <= room


def available_memory() -> int:
    """Bytes that processes can have now without anything being swapped out, or killed for it."""
    return min([_of_machine(), *control_groups.rooms()])


def _of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        entries = dict(line.split(":", 1) for line in lines)
        return int(entries["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Elsewhere all that there is has to stand for what is free.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
