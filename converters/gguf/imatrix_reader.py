"""Reader of anyone's GGUF importance matrices."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, Keys

from converters.gguf.file import GgufModel, GgufTensor, read_gguf
from converters.gguf.imatrix import COUNTS, KIND, SUMS, Imatrix
from phi3quant.disk.first_bytes import GGUF_MAGIC, lfs_hint, starts_with
from phi3quant.errors import CheckpointError
from phi3quant.model.config import shown

_REQUIRED = (Keys.IMatrix.DATASETS, Keys.IMatrix.CHUNK_COUNT, Keys.IMatrix.CHUNK_SIZE)
"""Keys without which llama-quantize refuses a file."""

_LARGEST = (1 << 31) - 1
"""Largest number that llama-quantize can copy into the model's metadata."""


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix.

    Raises:
        CheckpointError: the file is something else, or a value can't be right.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no importance matrix {path}")
    if not starts_with(path, GGUF_MAGIC):
        raise CheckpointError(
            lfs_hint(path)
            or f"{path} is not a GGUF file; llama.cpp's llama-imatrix converts its older .dat files"
        )
    model = read_gguf(path)
    _check_fields(path, model.fields)
    names = [name.removesuffix(SUMS) for name in model.tensors if name.endswith(SUMS)]
    if not names:
        raise CheckpointError(f"{path} has no sums (tensors NAME{SUMS})")
    _refuse_lone_counts(path, model, names)
    counts = {name: _count(path, model, name) for name in names}
    return Imatrix(
        {name: _sums(path, model, name) for name in names},
        counts,
        tuple(model.fields[Keys.IMatrix.DATASETS]),
        model.fields[Keys.IMatrix.CHUNK_COUNT],
        model.fields[Keys.IMatrix.CHUNK_SIZE],
    )


def _check_fields(path: Path, fields: Mapping[str, Any]) -> None:
    kind = fields.get(Keys.General.TYPE, KIND)
    if kind != KIND:
        raise CheckpointError(f"{path} is a GGUF {shown(kind)}, not an importance matrix")
    for key in _REQUIRED:
        if key not in fields:
            raise CheckpointError(f"{path} is not an importance matrix: it has no key {key}")
    datasets = fields[Keys.IMatrix.DATASETS]
    if not isinstance(datasets, list) or not all(isinstance(text, str) for text in datasets):
        raise CheckpointError(f"{path}: {Keys.IMatrix.DATASETS} is not a list of names")
    for key in _REQUIRED[1:]:
        if type(fields[key]) is not int or not 0 <= fields[key] <= _LARGEST:
            raise CheckpointError(f"{path}: {key} is {shown(fields[key])}, not a possible number")


def _refuse_lone_counts(path: Path, model: GgufModel, names: list[str]) -> None:
    for name in model.tensors:
        if name.endswith(COUNTS) and name.removesuffix(COUNTS) not in names:
            raise CheckpointError(f"{path} has {name}, but no {name.removesuffix(COUNTS)}{SUMS}")


def _sums(path: Path, model: GgufModel, name: str) -> np.ndarray:
    """Sums of squares FP32 [columns]."""
    stored = model.tensors[f"{name}{SUMS}"]
    rows = math.prod(stored.shape[:-1])
    if rows != 1:
        raise CheckpointError(
            f"{path}: {name}{SUMS} has {rows} rows; only models with experts have more than one"
        )
    values = _values(path, stored, f"{name}{SUMS}")
    if (values < 0).any():
        raise CheckpointError(f"{path}: {name}{SUMS} has a negative sum of squares; it is damaged")
    return values


def _count(path: Path, model: GgufModel, name: str) -> int:
    key = f"{name}{COUNTS}"
    stored = model.tensors.get(key)
    if stored is None:
        raise CheckpointError(f"{path} has {name}{SUMS}, but no {key}")
    values = _values(path, stored, key)
    if len(values) != 1 or values[0] < 0:
        raise CheckpointError(f"{path}: {key} is not a number of tokens; it is damaged")
    return round(float(values[0]))


def _values(path: Path, stored: GgufTensor, name: str) -> np.ndarray:
    if stored.type != GGMLQuantizationType.F32:
        raise CheckpointError(f"{path}: {name} is {stored.type.name}; it must be F32")
    values = np.fromfile(stored.file, "<f4", stored.nbytes // 4, offset=stored.start)
    if not np.isfinite(values).all():
        raise CheckpointError(f"{path}: {name} holds NaN or infinity; it is damaged")
    return values.astype(np.float32)
