"""Activations of all calibration windows, in memory or on disk."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

Shape = tuple[int, int, int]


class Hidden(Protocol):
    """Activations [windows, length, width], in memory (a torch.Tensor) or on disk."""

    @property
    def shape(self) -> Sequence[int]:
        """Numbers of windows, tokens per window and values per token."""

    def split(self, windows: int, /) -> Sequence[torch.Tensor] | Iterator[torch.Tensor]:
        """Parts of ``windows`` windows (the last may have fewer), which may be changed in place."""


@dataclass(frozen=True)
class StoredHidden:
    """Activations in a file; implements Hidden.

    Attributes:
        file: file with the raw values.
        shape: windows, length and width.
        dtype: type of the values.
    """

    file: Path
    shape: Shape
    dtype: torch.dtype = torch.float32

    def split(self, windows: int, /) -> Iterator[torch.Tensor]:
        """See Hidden. Parts are memory-mapped, so that the system can reclaim their memory."""
        count, length, width = self.shape
        size = self.dtype.itemsize
        for start in range(0, count, windows):
            part = min(windows, count - start)
            offset = start * length * width * size
            mapped = np.memmap(self.file, np.uint8, "r+", offset, (part, length, width * size))
            yield torch.from_numpy(mapped).view(self.dtype)


@dataclass(frozen=True)
class Shelf:
    """Storage for the activations of a run.

    Attributes:
        folder: folder for files named ``states.*``; None: memory.
    """

    folder: Path | None = None

    def make(self, name: str, shape: Shape, dtype: torch.dtype = torch.float32) -> Hidden:
        """Uninitialized storage for activations; a file of the same name is reused.

        Args:
            name: suffix of the file's name.
            shape: windows, length and width.
            dtype: type of the values.
        """
        if self.folder is None:
            return torch.empty(shape, dtype=dtype)
        stored = StoredHidden(self.folder / f"states.{name}", shape, dtype)
        size = shape[0] * shape[1] * shape[2] * dtype.itemsize
        with stored.file.open("ab") as out:
            # A full disk raises an exception here; later, writing to the mapping would end the
            # process with SIGBUS.
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(out.fileno(), 0, size)
            out.truncate(size)
        return stored

    def put(self, name: str, pieces: Iterator[torch.Tensor], shape: Shape) -> Hidden:
        """Store activations.

        Args:
            name: suffix of the file's name.
            pieces: one window after another, FP32 [1, length, width].
            shape: windows, length and width.
        """
        stored = self.make(name, shape)
        for piece, target in zip(pieces, stored.split(1), strict=True):
            target.copy_(piece)
        return stored
