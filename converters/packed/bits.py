"""Small integers side by side in 32-bit words, the lowest bits first."""

from collections.abc import Sequence

import numpy as np
import torch

from converters.packed.sizes import words_for
from phi3quant.parallel import over_rows
from phi3quant.quant.codecs.lanes import kernel


def pack(values: torch.Tensor, bits: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """Pack along the last axis; the last word is filled up with zeros.

    Args:
        values: uint8 [rows, count], each below 2**bits.
        bits: 4 or 8.
        order: which of a word's values each place holds, the lowest bits first; by default in
            sequence.

    Returns:
        int32 [rows, words].
    """
    rows, count = values.shape
    per_word = 32 // bits
    missing = words_for(count, bits) * per_word - count
    padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
    if order is not None:
        padded = padded.view(rows, -1, per_word)[:, :, list(order)].reshape(rows, -1)
    if bits == 4:
        padded = _paired(padded)
    # Flat first: a single row may count as contiguous with strides that a view can't take.
    return padded.reshape(-1).view(torch.int32).view(rows, -1)


def _paired(values: torch.Tensor) -> torch.Tensor:
    """Two values a byte, the first one low: uint8 [rows, count / 2] from [rows, count]."""
    rows, count = values.shape
    # numpy asks for large pages, which come at less cost.
    paired = np.empty((rows, count // 2), np.uint8)
    # One number of 16 bits holds both values of a byte, four bits too far apart.
    both = values.contiguous().numpy().view("<u2")

    def pair(part: slice) -> None:
        _close_up(both[part], paired[part])

    over_rows(rows, count, pair)
    return torch.from_numpy(paired)


@kernel
def _close_up(both: np.ndarray, paired: np.ndarray) -> None:
    for row in range(len(both)):
        for place in range(both.shape[1]):
            paired[row, place] = np.uint8((both[row, place] | (both[row, place] >> 4)) & 0xFF)


def unpack(
    words: torch.Tensor, bits: int, count: int, order: Sequence[int] | None = None
) -> torch.Tensor:
    """Undo ``pack``.

    Args:
        words: int32 [rows, words].
        bits: 4 or 8.
        count: values in a row.
        order: as given to pack.

    Returns:
        uint8 [rows, count].
    """
    rows = words.shape[0]
    values = words.reshape(-1).view(torch.uint8).view(rows, -1)
    if bits == 4:
        values = torch.stack((values & 15, values >> 4), dim=-1).view(rows, -1)
    if order is not None:
        places = torch.tensor(order).argsort().tolist()
        values = values.view(rows, -1, 32 // bits)[:, :, places].reshape(rows, -1)
    return values[:, :count].contiguous()
