"""Activations of all calibration windows: on the device, in the host's memory or on disk."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch

from phi3quant.model.device import CPU

Shape = tuple[int, int, int]


class Elsewhere(Protocol):
    """Activations [windows, length, width] that aren't kept on the device."""

    @property
    def shape(self) -> Sequence[int]:
        """Numbers of windows, tokens per window and values per token."""

    def parts(self, windows: int, *, changed: bool) -> Iterator[torch.Tensor]:
        """See ``parts``."""

    def part(self, windows: slice) -> torch.Tensor:
        """See ``part``."""


Hidden: TypeAlias = torch.Tensor | Elsewhere
"""Activations [windows, length, width]."""


def parts(hidden: Hidden, windows: int, *, changed: bool = False) -> Iterable[torch.Tensor]:
    """Activations in parts of ``windows`` windows on the device (the last may have fewer).

    Args:
        hidden: activations.
        windows: windows per part.
        changed: whether the caller changes the parts in place. A part is stored when the next one
            is requested.
    """
    if isinstance(hidden, torch.Tensor):
        return torch.split(hidden, windows)
    return hidden.parts(windows, changed=changed)


def part(hidden: Hidden, windows: slice) -> torch.Tensor:
    """Some windows of the activations on the device, only for reading."""
    return hidden[windows] if isinstance(hidden, torch.Tensor) else hidden.part(windows)


@dataclass(frozen=True)
class HostHidden:
    """Activations in the host's memory; implements Elsewhere.

    Attributes:
        values: page-locked, which makes copies faster.
        device: device that computes.
    """

    values: torch.Tensor
    device: torch.device

    @property
    def shape(self) -> Sequence[int]:
        """See Elsewhere."""
        return self.values.shape

    def parts(self, windows: int, *, changed: bool) -> Iterator[torch.Tensor]:
        """See ``parts``."""
        for stored in torch.split(self.values, windows):
            yield from _borrowed(stored, self.device, changed=changed)

    def part(self, windows: slice) -> torch.Tensor:
        """See ``part``."""
        return self.values[windows].to(self.device)


@dataclass(frozen=True)
class StoredHidden:
    """Activations in a file; implements Elsewhere.

    Attributes:
        file: file with the raw values.
        shape: windows, length and width.
        dtype: type of the values.
        device: device that computes.
    """

    file: Path
    shape: Shape
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def parts(self, windows: int, *, changed: bool) -> Iterator[torch.Tensor]:
        """See ``parts``. They are memory-mapped, so that the system can reclaim their memory."""
        for start in range(0, self.shape[0], windows):
            stored = self._mapped(start, min(windows, self.shape[0] - start))
            yield from _borrowed(stored, self.device, changed=changed)

    def part(self, windows: slice) -> torch.Tensor:
        """See ``part``."""
        start, end, _ = windows.indices(self.shape[0])
        return self._mapped(start, end - start).to(self.device)

    def _mapped(self, start: int, windows: int) -> torch.Tensor:
        _, length, width = self.shape
        stored = (windows, length, width * self.dtype.itemsize)
        offset = start * length * width * self.dtype.itemsize
        return torch.from_numpy(np.memmap(self.file, np.uint8, "r+", offset, stored)).view(
            self.dtype
        )


def _borrowed(
    stored: torch.Tensor, device: torch.device, *, changed: bool
) -> Iterator[torch.Tensor]:
    """``stored`` itself on the CPU; otherwise a copy on the device, which is copied back."""
    copy = stored.to(device)
    yield copy
    if changed and copy is not stored:
        stored.copy_(copy)


@dataclass(frozen=True)
class Shelf:
    """Storage for the activations of a run.

    Attributes:
        folder: folder for files named ``states.*``; None: memory.
        device: device that computes.
        on_host: whether the memory is the host's, not the device's.
    """

    folder: Path | None = None
    device: torch.device = CPU
    on_host: bool = False

    def make(self, name: str, shape: Shape, dtype: torch.dtype = torch.float32) -> Hidden:
        """Uninitialized storage for activations; a file of the same name is reused.

        Args:
            name: suffix of the file's name.
            shape: windows, length and width.
            dtype: type of the values.
        """
        if self.folder is None and self.on_host:
            locked = self.device.type == "cuda"
            return HostHidden(torch.empty(shape, dtype=dtype, pin_memory=locked), self.device)
        if self.folder is None:
            return torch.empty(shape, dtype=dtype, device=self.device)
        stored = StoredHidden(self.folder / f"states.{name}", shape, dtype, self.device)
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
        for piece, target in zip(pieces, parts(stored, 1, changed=True), strict=True):
            target.copy_(piece)
        return stored
