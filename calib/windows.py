"""Windows of tokens, cut from a long text."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from phi3quant.errors import CorpusError


def cut_windows(ids: Sequence[int] | NDArray[Any], length: int, source: str) -> torch.Tensor:
    """Cut token ids into windows that don't overlap; the remainder is dropped.

    Args:
        ids: token ids of the text.
        length: tokens per window, at least 2.
        source: source of the text, for the message.

    Returns:
        int64 [windows, length].

    Raises:
        CorpusError: the text doesn't fill one window, or ``length`` is below 2.
    """
    count = len(ids) // length
    if length < 2:
        raise CorpusError(f"windows of {length} tokens are too short; at least 2 are needed")
    if count == 0:
        raise CorpusError(
            f"{source} is too short: {len(ids)} tokens don't fill a window of {length}; "
            "give more text or shorter windows"
        )
    return torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length)


def sample_windows(windows: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Random sample of ``count`` windows (all if there are fewer), in their original order.

    Args:
        windows: int64 [windows, length].
        count: number of windows to choose.
        seed: seed of the choice.

    Returns:
        int64 [count or fewer, length].
    """
    if count >= len(windows):
        return windows
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(windows), generator=generator)[:count]
    return windows[chosen.sort().values]


def shuffled_by_content(windows: torch.Tensor) -> torch.Tensor:
    """Windows int64 [windows, length] sorted by hash: a random but reproducible order.

    Sums over windows, and the choice of windows to hold out, then don't depend on the order of the
    text.
    """
    order = sorted(range(len(windows)), key=lambda number: digest(windows[number]))
    return windows[order]


def digest(windows: torch.Tensor) -> str:
    """SHA-256 of the shape and the token ids of int64 windows [windows, length]."""
    shape = str(list(windows.shape)).encode()
    return hashlib.sha256(shape + windows.numpy().tobytes()).hexdigest()
