"""Packing of small integers into 32-bit words, the lowest bits first.

Values of 3, 5 and 6 bits don't fill words, so some lie in two words: 32 values of 3 bits take 3.
"""

from collections.abc import Sequence

import numpy as np
import torch

from converters.packed.sizes import words_for
from phi3quant.parallel import over_rows
from phi3quant.quant.codecs.lanes import kernel

_WHOLE = (4, 8)
"""Bits of values that are packed and unpacked as bytes."""


def pack(values: torch.Tensor, bits: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """Pack along the last axis; the last word is padded with zeros.

    Args:
        values: uint8 [rows, count], each below 2**bits.
        bits: bits of a value, from 1 to 8.
        order: index of the value in each place of a word of 4- or 8-bit values, the lowest bits
            first; None for sequential order.

    Returns:
        int32 [rows, words].
    """
    if bits not in _WHOLE:
        return _stream(values, bits)
    rows, count = values.shape
    per_word = 32 // bits
    missing = words_for(count, bits) * per_word - count
    padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
    if order is not None:
        padded = padded.view(rows, -1, per_word)[:, :, list(order)].reshape(rows, -1)
    if bits == 4:
        padded = _paired(padded)
    # Flat first: a single row may count as contiguous with strides that a view doesn't accept.
    return padded.reshape(-1).view(torch.int32).view(rows, -1)


def _paired(values: torch.Tensor) -> torch.Tensor:
    """Pack pairs of values into bytes, the first one low: uint8 [rows, count / 2]."""
    rows, count = values.shape
    # numpy requests large pages, which are cheaper to get.
    paired = np.empty((rows, count // 2), np.uint8)
    # A 16-bit number holds both values of a byte, with four bits between them to remove.
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
    """Unpack values that ``pack`` packed.

    Args:
        words: int32 [rows, words].
        bits: bits of a value, from 1 to 8.
        count: values in a row.
        order: order that was passed to ``pack``.

    Returns:
        uint8 [rows, count].
    """
    if bits not in _WHOLE:
        return _values(words, bits, count)
    rows = words.shape[0]
    values = words.reshape(-1).view(torch.uint8).view(rows, -1)
    if bits == 4:
        values = torch.stack((values & 15, values >> 4), dim=-1).view(rows, -1)
    if order is not None:
        places = torch.tensor(order).argsort().tolist()
        values = values.view(rows, -1, 32 // bits)[:, :, places].reshape(rows, -1)
    return values[:, :count].contiguous()


def _stream(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack values one after another: int32 [rows, words]."""
    rows, count = values.shape
    words = np.zeros((rows, words_for(count, bits)), np.uint32)
    source = values.contiguous().numpy()

    def fill(part: slice) -> None:
        _fill_words(source[part], bits, words[part])

    over_rows(rows, count, fill)
    return torch.from_numpy(words.view(np.int32))


def _values(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Inverse of ``_stream``: uint8 [rows, count]."""
    rows = words.shape[0]
    values = np.empty((rows, count), np.uint8)
    source = words.contiguous().numpy().view(np.uint32)

    def split(part: slice) -> None:
        _split_words(source[part], bits, values[part])

    over_rows(rows, count, split)
    return torch.from_numpy(values)


@kernel
def _fill_words(values: np.ndarray, bits: int, words: np.ndarray) -> None:
    for row in range(len(values)):
        waiting, filled, word = np.uint64(0), 0, 0
        for place in range(values.shape[1]):
            waiting |= np.uint64(values[row, place]) << np.uint64(filled)
            filled += bits
            if filled >= 32:
                words[row, word] = np.uint32(waiting & np.uint64(0xFFFFFFFF))
                waiting >>= np.uint64(32)
                filled -= 32
                word += 1
        if filled:
            words[row, word] = np.uint32(waiting)


@kernel
def _split_words(words: np.ndarray, bits: int, values: np.ndarray) -> None:
    mask = np.uint64((1 << bits) - 1)
    for row in range(len(values)):
        waiting, filled, word = np.uint64(0), 0, 0
        for place in range(values.shape[1]):
            if filled < bits:
                waiting |= np.uint64(words[row, word]) << np.uint64(filled)
                filled += 32
                word += 1
            values[row, place] = np.uint8(waiting & mask)
            waiting >>= np.uint64(bits)
            filled -= bits
