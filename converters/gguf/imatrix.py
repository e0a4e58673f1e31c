"""Importance matrices in llama.cpp's GGUF form: mean squares of the inputs of each matrix.

A matrix NAME has two tensors: ``NAME.in_sum2``, the sums of squares FP32 [columns], and
``NAME.counts``, the number of tokens as FP32 [1]. Models with experts have a row and a count for
each expert; Phi-3 has none. Keys and names are those of llama.cpp's tools/imatrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from gguf import GGUFWriter, Keys

SUMS, COUNTS = ".in_sum2", ".counts"
"""Ends of tensor names."""

KIND = "imatrix"
"""Value of general.type."""


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix.

    Attributes:
        sums: sums of squares by llama.cpp's name of the matrix, FP32 [columns].
        counts: number of tokens in each sum, by the same names.
        datasets: names of the texts.
        chunks: number of text windows.
        chunk_tokens: tokens in a window.
    """

    sums: Mapping[str, np.ndarray]
    counts: Mapping[str, int]
    datasets: tuple[str, ...]
    chunks: int
    chunk_tokens: int

    def importance(self, name: str) -> np.ndarray | None:
        """Mean squares of a matrix' inputs, FP32 [columns]; None if the file has none.

        As in llama-quantize, all columns of a matrix that saw no tokens count the same.
        """
        if name not in self.sums:
            return None
        count = self.counts[name]
        sums = self.sums[name]
        return sums / np.float32(count) if count > 0 else np.ones_like(sums)


class _Writer(GGUFWriter):  # type: ignore[misc]  # the library has no types
    """The library's writer, without the architecture of a model."""

    def add_architecture(self) -> None:
        """Importance matrices have none."""


def encode(imatrix: Imatrix, strings: Mapping[str, str]) -> bytes:
    """Contents of a file.

    Args:
        imatrix: the matrix; entries are written in the order of their names, as by llama.cpp.
        strings: further metadata.
    """
    writer = _Writer(None, "")
    writer.add_type(KIND)
    writer.add_array(Keys.IMatrix.DATASETS, imatrix.datasets)
    writer.add_uint32(Keys.IMatrix.CHUNK_COUNT, imatrix.chunks)
    writer.add_uint32(Keys.IMatrix.CHUNK_SIZE, imatrix.chunk_tokens)
    for key, text in strings.items():
        writer.add_string(key, text)
    for name in sorted(imatrix.sums):
        writer.add_tensor(f"{name}{SUMS}", imatrix.sums[name])
        writer.add_tensor(f"{name}{COUNTS}", np.array([imatrix.counts[name]], np.float32))
    with TemporaryDirectory(prefix="phi3quant-") as folder:
        file = Path(folder) / "imatrix.gguf"
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()
