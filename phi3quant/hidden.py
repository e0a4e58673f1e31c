"""Hidden states on disk: a few windows of them in memory at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch


class Hidden(Protocol):
    """Hidden states FP32 [windows, length, hidden], in memory (a tensor is one) or on disk."""

    @property
    def shape(self) -> Sequence[int]:
        """Windows, length and hidden size."""

    def split(self, windows: int, /) -> Sequence[torch.Tensor] | Iterator[torch.Tensor]:
        """So many windows at a time, the last ones maybe fewer; they may be changed in place."""


@dataclass(frozen=True)
class StoredHidden:
    """Hidden states in a file; implements Hidden.

    Attributes:
        file: nothing but the numbers.
        shape: windows, length and hidden size.
    """

    file: Path
    shape: tuple[int, int, int]

    def split(self, windows: int, /) -> Iterator[torch.Tensor]:
        """See Hidden. A piece is mapped while it is held: its memory is the system's to reclaim."""
        count, length, hidden = self.shape
        for start in range(0, count, windows):
            some = min(windows, count - start)
            offset = start * length * hidden * np.dtype(np.float32).itemsize
            mapped = np.memmap(self.file, np.float32, "r+", offset, (some, length, hidden))
            yield torch.from_numpy(mapped)


def store(file: Path, pieces: Iterator[torch.Tensor], shape: tuple[int, int, int]) -> StoredHidden:
    """Write hidden states into a file.

    Args:
        file: to make.
        pieces: FP32 [some windows, length, hidden], one after another.
        shape: of all of them.
    """
    with file.open("wb") as out:
        for piece in pieces:
            out.write(piece.contiguous().numpy().data)
    return StoredHidden(file, shape)
