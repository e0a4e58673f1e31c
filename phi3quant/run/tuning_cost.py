"""Memory and time that tuning takes, computed before it starts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from calib.activations import Shelf
from phi3quant import units
from phi3quant.errors import MemoryLimitError
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import free_memory
from phi3quant.model.precision import product_dtype
from phi3quant.run import time_estimate
from phi3quant.run.conduct import Conduct
from phi3quant.run.memory_budget import available_memory
from phi3quant.tuning.divergence import PIECE_ROWS
from phi3quant.tuning.settings import TuningSettings
from phi3quant.tuning.training import LOOKS
from phi3quant.tuning.tune import KEPT_BYTES, STRENGTHS, Windows

# Weights that share a scale, and bytes for its logarithm, gradient and two running means.
_GROUP, _FACTOR_BYTES = 32, 16
# FP32 copies of a block: its weights, their gradient, the product before its type is changed, and
# integers of 16 bits that are multiplied.
_BLOCK_COPIES = 4
# Copies of an embedding or head, and of a piece of logits; bytes of a weight in a block kept ready.
_TABLES, _LOGITS, _TERM_BYTES = 5, 6, 2
# Measured resident bytes over the sum of the tensors, because of mapped files and the allocator:
# 3.8 to 4.3 GB in runs of a model of 135 million weights.
_MARGIN = 1.7
# Passes of a token in a step: forward, forward again, and backward, which takes two.
_PASSES = 4
# Times that a logit is read and written in a step or when judged, and a block's weight in a step.
_LOGIT_COPIES, _WEIGHT_COPIES = 11, 8
# How often held-back windows are judged: strength 0 is the model before.
_JUDGED = LOOKS + len(STRENGTHS)
_LIBRARIES = 500_000_000
# Share of the available memory up to which freed memory is kept for reuse. That takes up to half
# again as much, and saves 5 % of the time: the system has fewer pages to clear.
_MODEST = 0.5
# Seconds above which a CPU is not the place for it.
_LONG = 2 * 3600


@dataclass(frozen=True)
class Room:
    """Use of the memory while tuning.

    Attributes:
        shelf: function from a folder to the storage of the original's states.
        keeps_freed: whether freed memory is kept for reuse.
    """

    shelf: Callable[[Path], Shelf]
    keeps_freed: bool


def memory_bytes(config: Phi3Config, length: int, settings: TuningSettings) -> int:
    """Resident bytes at the peak, without the states of the original.

    Args:
        config: configuration of the model.
        length: tokens in a window.
        settings: windows per step.
    """
    tokens = settings.batch * length
    block = _block_weights(config)
    table = config.vocab_size * config.hidden_size
    states = 4 * tokens * config.hidden_size * (config.num_hidden_layers + 2)
    widest = max(config.intermediate_size * 2, config.query_rows + 2 * config.key_value_rows)
    activations = 4 * tokens * (4 * widest + 8 * config.hidden_size)
    factors = _FACTOR_BYTES * config.num_hidden_layers * block // _GROUP
    # Embeddings and heads of both models, and a piece of both models' logits with its gradient.
    ends = 4 * _TABLES * table + 4 * _LOGITS * PIECE_ROWS * config.vocab_size
    # Blocks kept ready for every pass.
    kept = min(KEPT_BYTES, _TERM_BYTES * config.num_hidden_layers * block)
    held = 4 * _BLOCK_COPIES * block + kept
    return _LIBRARIES + int(_MARGIN * (held + states + activations + factors + ends))


def seconds(
    config: Phi3Config, windows: Windows, settings: TuningSettings, pace: time_estimate.Pace
) -> float:
    """Estimated seconds of tuning on a CPU.

    Args:
        config: configuration of the model.
        windows: windows to tune on.
        settings: passes and windows per step.
        pace: pace of the machine.
    """
    number, length = windows.train.shape
    layers = config.num_hidden_layers
    stepped = settings.passes * number * length
    held_back = sum(each.numel() for each in windows.held_back.values())
    judged = _JUDGED * held_back
    # The original passes once. Both models have logits; in a step, there is one product backward.
    blocks, head = layers * _block_weights(config), config.vocab_size * config.hidden_size
    training = number * length + _PASSES * stepped
    products = 2.0 * (blocks * training + head * 3 * stepped)
    judging = held_back + judged
    full = 2.0 * (blocks * judging + head * 2 * judged)
    rate = pace.full if product_dtype() == torch.float32 else pace.fast
    steps = settings.passes * math.ceil(number / settings.batch)
    copied = _LOGIT_COPIES * config.vocab_size * (judged + stepped)
    copied += _WEIGHT_COPIES * blocks * steps
    beside = layers * time_estimate.beside_linears(config, length, training + judging, pace)
    return products / rate + full / pace.full + copied / pace.copied + beside


def room_for(
    config: Phi3Config,
    windows: Windows,
    settings: TuningSettings,
    device: torch.device,
    conduct: Conduct,
) -> Room:
    """Check memory, report the time of a large run, and choose the place of the states.

    Raises:
        MemoryLimitError: there is not enough memory.
    """
    need = memory_bytes(config, windows.train.shape[1], settings)
    free = free_memory(device)
    limit = conduct.max_memory
    usable = available_memory() if free is None else free
    usable = usable if limit is None else min(usable, limit)
    if need > usable:
        raise MemoryLimitError(
            f"tuning needs about {units.size(need)} of memory, and there are {units.size(usable)}; "
            "allow more, or use shorter windows (--seq-len)"
        )
    states = 4 * windows.train.numel() * config.hidden_size
    in_memory = need + states <= usable
    if device.type == "cpu":
        estimate = seconds(config, windows, settings, time_estimate.measured())
        if estimate > _LONG:
            conduct.say(
                f"tuning will take about {math.ceil(estimate / 3600)} h on this CPU; pass --device "
                "cuda if there is a GPU, or a smaller --tune-windows"
            )
        elif estimate > 60:
            conduct.say(f"tuning will take about {math.ceil(estimate / 60)} min")

    def shelf(folder: Path) -> Shelf:
        if in_memory:
            return Shelf(None, device)
        on_host = device.type != "cpu" and states + _LIBRARIES <= available_memory()
        return Shelf(None if on_host else folder, device, on_host=on_host)

    modest = limit is None and need + states <= _MODEST * usable
    return Room(shelf, keeps_freed=device.type == "cpu" and modest)


def _block_weights(config: Phi3Config) -> int:
    return sum(math.prod(BLOCK_TENSORS[name].shape(config)) for name in LINEARS)
