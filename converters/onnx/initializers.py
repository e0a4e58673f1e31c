"""Initializers of an ONNX model, read from the graph or from its data files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto

from converters.onnx.data import TYPES, place_of
from phi3quant.errors import CheckpointError

_DTYPES: Mapping[int, torch.dtype] = {number: dtype for dtype, number in TYPES.items()}


@dataclass(frozen=True)
class Initializers:
    """Initializers of a model, by name.

    Attributes:
        file: file of the graph.
        tensors: initializers.
    """

    file: Path
    tensors: Mapping[str, TensorProto]

    def load(self, name: str) -> torch.Tensor:
        """Read a tensor.

        Raises:
            CheckpointError: it is missing, cut short, or of a type that can't be read.
        """
        stored = self.tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{self.file} computes {name!r}, which should be a stored tensor")
        dtype = _DTYPES.get(stored.data_type)
        if dtype is None:
            kind = TensorProto.DataType.Name(stored.data_type)
            raise CheckpointError(f"tensor {name} of {self.file} is {kind}, which can't be read")
        shape = tuple(stored.dims)
        data = self._bytes(stored)
        nbytes = dtype.itemsize * math.prod(shape)
        if min(shape, default=0) < 0 or len(data) != nbytes:
            raise CheckpointError(
                f"tensor {name} of {self.file} has {len(data)} bytes, but its shape "
                f"{list(shape)} requires {nbytes}"
            )
        return torch.from_numpy(data).view(dtype).view(shape)

    def _bytes(self, stored: TensorProto) -> np.ndarray:
        if stored.data_location == TensorProto.EXTERNAL:
            place = place_of(stored, self.file)
            path = self.file.parent / place.file
            return np.fromfile(path, np.uint8, place.nbytes, offset=place.offset)
        if stored.raw_data:
            return np.frombuffer(stored.raw_data, np.uint8).copy()
        raise CheckpointError(
            f"tensor {stored.name} of {self.file} is stored in a form that can't be read; convert "
            "the model with onnx.save(..., save_as_external_data=True)"
        )
