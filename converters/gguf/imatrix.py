"""Importance matrices in llama.cpp's GGUF form: mean squares of the inputs of each matrix.

A matrix NAME has two tensors: ``NAME.in_sum2``, the sums of squares FP32 [columns], and
``NAME.counts``, the number of tokens as FP32 [1]. Models with experts have a row and a count for
each expert; Phi-3 has none. Keys and names are those of llama.cpp's tools/imatrix.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, Keys

from converters.gguf.sizes import ALIGNMENT
from phi3quant.disk.first_bytes import GGUF_MAGIC

SUMS, COUNTS = ".in_sum2", ".counts"
"""Ends of tensor names."""

KIND = "imatrix"
"""Value of general.type."""

_VERSION = 3


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


def encode(imatrix: Imatrix, strings: Mapping[str, str]) -> bytes:
    """Contents of a file.

    Args:
        imatrix: the matrix; entries are written in the order of their names, as by llama.cpp.
        strings: further metadata.
    """
    fields = [
        _field(Keys.General.TYPE, GGUFValueType.STRING, _string(KIND)),
        _field(Keys.IMatrix.DATASETS, GGUFValueType.ARRAY, _strings(imatrix.datasets)),
        _field(Keys.IMatrix.CHUNK_COUNT, GGUFValueType.UINT32, _number(imatrix.chunks)),
        _field(Keys.IMatrix.CHUNK_SIZE, GGUFValueType.UINT32, _number(imatrix.chunk_tokens)),
        *(_field(key, GGUFValueType.STRING, _string(text)) for key, text in strings.items()),
    ]
    tensors = list(_tensors(imatrix))
    infos, offset = [], 0
    for name, values in tensors:
        infos.append(
            _string(name) + struct.pack("<IQIQ", 1, len(values), GGMLQuantizationType.F32, offset)
        )
        offset += _padded(values.nbytes)
    head = GGUF_MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(fields))
    header = b"".join((head, *fields, *infos))
    parts = [header, *(values.astype("<f4").tobytes() for _, values in tensors)]
    return b"".join(part.ljust(_padded(len(part)), b"\0") for part in parts)


def _tensors(imatrix: Imatrix) -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted(imatrix.sums):
        yield f"{name}{SUMS}", imatrix.sums[name]
        yield f"{name}{COUNTS}", np.array([imatrix.counts[name]], np.float32)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _field(key: str, kind: GGUFValueType, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _strings(texts: tuple[str, ...]) -> bytes:
    head = struct.pack("<IQ", GGUFValueType.STRING, len(texts))
    return head + b"".join(map(_string, texts))


def _number(value: int) -> bytes:
    return struct.pack("<I", value)
