"""Windows of tokens, cut from one long stream."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from phi3quant.errors import CorpusError


def cut_windows(ids: Sequence[int] | NDArray[Any], length: int, source: str) -> torch.Tensor:
    """Cut a stream of token ids into windows that don't overlap; the rest is left out.

    Args:
        ids: the stream.
        length: tokens in a window, at least 2.
        source: where the text came from, for the message.

    Returns:
        int64 [windows, length].

    Raises:
        CorpusError: the stream doesn't fill one window.
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
    """Choose ``count`` windows (or all, if there are fewer) by chance, kept in their order.

    Args:
        windows: int64 [windows, length].
        count: how many.
        seed: makes the choice repeatable.
    """
    if count >= len(windows):
        return windows
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(windows), generator=generator)[:count]
    return windows[chosen.sort().values]


def shuffled_by_content(windows: torch.Tensor) -> torch.Tensor:
    """Windows [windows, length] in the order of their hashes: by chance, but always the same one.

    Sums over windows, and which of them are held back, then don't depend on the order in which the
    text came.
    """
    order = sorted(range(len(windows)), key=lambda number: digest(windows[number]))
    return windows[order]


def digest(windows: torch.Tensor) -> str:
    """SHA-256 over the token ids and the shape of the windows."""
    shape = str(list(windows.shape)).encode()
    return hashlib.sha256(shape + windows.numpy().tobytes()).hexdigest()
