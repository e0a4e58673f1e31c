"""Importance of the columns of a file's matrices, from anyone's importance matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from gguf import GGUFWriter

from converters.gguf.imatrix import Imatrix
from converters.gguf.imatrix_reader import read_imatrix
from converters.gguf.names import outer_name
from converters.gguf.sizes import tensor_types
from converters.gguf.type_policy import FileType
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD
from phi3quant.model.config import Phi3Config
from phi3quant.quant.ggml_types import BlockSize

_UNWEIGHTED = ("F32", "F16", "BF16", "Q8_0")
"""Types whose encoding doesn't depend on an importance."""
# Names that a note lists; the rest are counted.
_LISTED = 3


@dataclass(frozen=True)
class Importance:
    """Importance matrix of a file to write.

    Attributes:
        file: name of the importance matrix' file.
        imatrix: its contents.
        vectors: mean squares of the inputs, FP32 [columns], by the name of the matrix; only those
            that the file's types can use.
        notes: deviations from a complete importance matrix, one sentence each.
    """

    file: str
    imatrix: Imatrix
    vectors: Mapping[str, torch.Tensor]
    notes: tuple[str, ...]


def read_importance(path: Path, kind: FileType, config: Phi3Config) -> Importance:
    """Read an importance matrix for a file of a given kind.

    Args:
        path: importance matrix in llama.cpp's GGUF form.
        kind: types of the file to write.
        config: configuration of the model.

    Raises:
        CheckpointError: it can't be read, or a value can't be right.
        SchemeError: it belongs to another model, or no type of the file can use it.
    """
    types = tensor_types(kind, config)
    usable = [name for name, (size, _) in types.items() if size.name not in _UNWEIGHTED]
    if not usable:
        raise SchemeError(
            f"{kind.name} has no type that an importance matrix changes; choose another type, such "
            "as Q4_K_M, or leave --imatrix out"
        )
    imatrix = read_imatrix(path)
    if not imatrix.sums.keys() & types.keys():
        raise SchemeError(
            f"{path} has no entry for a matrix of this model; its first is {min(imatrix.sums)!r}, "
            f"and the model's are like {usable[-1]!r}"
        )
    fitting = _fitting(path, imatrix, types)
    vectors = {
        name: torch.from_numpy(values)
        for name in usable
        if name in fitting and (values := imatrix.importance(name)) is not None
    }
    return Importance(path.name, imatrix, vectors, tuple(_notes(path, imatrix, usable, types)))


def add_origin(writer: GGUFWriter, importance: Importance) -> None:
    """Record an importance matrix under the keys that llama-quantize uses."""
    imatrix = importance.imatrix
    writer.add_string("quantize.imatrix.file", importance.file)
    if imatrix.datasets:
        writer.add_string("quantize.imatrix.dataset", imatrix.datasets[0])
    writer.add_int32("quantize.imatrix.entries_count", len(imatrix.sums))
    writer.add_int32("quantize.imatrix.chunks_count", imatrix.chunks)


def _fitting(
    path: Path, imatrix: Imatrix, types: Mapping[str, tuple[BlockSize, tuple[int, ...]]]
) -> set[str]:
    """Names of matrices whose entry has their number of columns."""
    names = set()
    for name in imatrix.sums.keys() & types.keys():
        columns, actual = types[name][1][-1], len(imatrix.sums[name])
        if actual == columns:
            names.add(name)
        # llama-quantize ignores an entry of another size for the embedding too.
        elif name != outer_name(EMBEDDING):
            raise SchemeError(
                f"{path} has {actual} sums for {name}, whose rows have {columns} weights; it "
                "belongs to another model"
            )
    return names


def _notes(
    path: Path,
    imatrix: Imatrix,
    usable: list[str],
    types: Mapping[str, tuple[BlockSize, tuple[int, ...]]],
) -> list[str]:
    outer = {outer_name(EMBEDDING), outer_name(HEAD)}
    groups = {
        "has no entry for {}; without one they are quantized as without --imatrix": [
            name for name in usable if name not in imatrix.sums and name not in outer
        ],
        "has entries that match no matrix of this model and are ignored: {}": sorted(
            imatrix.sums.keys() - types.keys()
        ),
        "has counts of 0 for {}; all their columns count the same": [
            name for name in usable if imatrix.counts.get(name) == 0
        ],
    }
    return [f"{path} {text.format(_list(names))}" for text, names in groups.items() if names]


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
