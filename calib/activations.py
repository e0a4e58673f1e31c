"""Activations of all calibration windows, in memory or a few windows at a time from disk."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

Shape = tuple[int, int, int]


class Hidden(Protocol):
    """Activations [windows, length, width], in memory (a tensor is one) or on disk."""

    @property
    def shape(self) -> Sequence[int]:
        """Windows, length and width."""

    def split(self, windows: int, /) -> Sequence[torch.Tensor] | Iterator[torch.Tensor]:
        """So many windows at a time, the last ones maybe fewer; they may be changed in place."""


@dataclass(frozen=True)
class StoredHidden:
    """Activations in a file; implements Hidden.

    Attributes:
        file: nothing but the numbers.
        shape: windows, length and width.
        dtype: of the numbers.
    """

    file: Path
    shape: Shape
    dtype: torch.dtype = torch.float32

    def split(self, windows: int, /) -> Iterator[torch.Tensor]:
        """See Hidden. A piece is mapped while it is held: its memory is the system's to reclaim."""
        count, length, width = self.shape
        size = self.dtype.itemsize
        for start in range(0, count, windows):
            some = min(windows, count - start)
            offset = start * length * width * size
            mapped = np.memmap(self.file, np.uint8, "r+", offset, (some, length, width * size))
            yield torch.from_numpy(mapped).view(self.dtype)


@dataclass(frozen=True)
class Shelf:
    """Where the activations of a run are.

    Attributes:
        folder: for files named ``states.*``; None: they stay in memory.
    """

    folder: Path | None = None

    def make(self, name: str, shape: Shape, dtype: torch.dtype = torch.float32) -> Hidden:
        """Room for activations, with anything in it; that of the same name is used again."""
        if self.folder is None:
            return torch.empty(shape, dtype=dtype)
        stored = StoredHidden(self.folder / f"states.{name}", shape, dtype)
        size = shape[0] * shape[1] * shape[2] * dtype.itemsize
        with stored.file.open("ab") as out:
            # A full disk is found here; later it would end the process.
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(out.fileno(), 0, size)
            out.truncate(size)
        return stored

    def put(self, name: str, pieces: Iterator[torch.Tensor], shape: Shape) -> Hidden:
        """Activations FP32 from pieces [some windows, length, width], one after another."""
        made = self.make(name, shape)
        for piece, target in zip(pieces, made.split(1), strict=True):
            target.copy_(piece)
        return made
