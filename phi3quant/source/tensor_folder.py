"""Tensors of a folder of safetensors, by name; they are read on demand."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from phi3quant.disk.tensor_stream import DTYPE_NAMES
from phi3quant.errors import CheckpointError, DamagedError
from phi3quant.finite import count_not_finite

FLOAT_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Dtypes of plain weights, by their names in safetensors."""

PACKED_DTYPE = "U32"
"""Dtype of packed matrices that are stored under the name of the plain one."""

Update = Callable[[torch.Tensor], torch.Tensor]
"""Change of a tensor by an adapter; it may work in place. Both tensors are FP32."""

_CHUNK_WEIGHTS = 1 << 22
"""Values of each of two tensors that are in memory while they are compared."""

_ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Piece:
    """A tensor in a file: its name there, and its shape from the file's header."""

    file: Path
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor that is stored in one piece, or in several whose rows follow one another.

    Attributes:
        dtype: name of its type in safetensors; of the first piece, if there are several.
        pieces: at least one.
    """

    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def file(self) -> Path:
        """File of the first piece."""
        return self.pieces[0].file

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        first = self.pieces[0].shape
        if len(self.pieces) == 1:
            return first
        return (sum(piece.shape[0] for piece in self.pieces), *first[1:])


@dataclass(frozen=True)
class TensorFolder:
    """Tensors of a folder of safetensors; only headers have been read.

    Attributes:
        folder: folder of the model.
        files: safetensors files that are read.
        tensors: entries by name.
        notes: choices that the user should know about.
        updates: changes by adapters, in their order, by tensor.
    """

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorEntry]
    notes: tuple[str, ...] = ()
    updates: Mapping[str, Sequence[Update]] = field(default_factory=dict)

    def nbytes(self, *prefixes: str) -> int:
        """Bytes of all tensors, or of those whose names begin with one of ``prefixes``."""
        return sum(
            math.prod(stored.shape) * _ITEM_BYTES.get(stored.dtype, 0)
            for name, stored in self.tensors.items()
            if name.startswith(prefixes or ("",))
        )

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor in its stored dtype, or as FP32 if adapters change it.

        Raises:
            CheckpointError: the folder has no such tensor, or its file can no longer be read.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.folder} has no tensor {name}")
        pieces = [_read(piece) for piece in self.tensors[name].pieces]
        tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        updates = self.updates.get(name, ())
        if updates:
            # A copy, since updates may work in place and the tensor may be mapped from the file.
            tensor = tensor.to(torch.float32, copy=True)
            for update in updates:
                tensor = update(tensor)
        return tensor

    def load_finite(self, name: str) -> torch.Tensor:
        """Read one tensor as FP32 and check that all its values are finite.

        Raises:
            CheckpointError: as load.
            DamagedError: the tensor contains NaN or infinity.
        """
        tensor = self.load(name)
        bad = count_not_finite(tensor)
        if bad:
            first = tuple(int(i) for i in (~torch.isfinite(tensor)).nonzero()[0])
            raise DamagedError(
                f"tensor {name} in {self.tensors[name].file} has {bad} values that are NaN "
                f"or infinite, the first at {first}; the checkpoint is damaged"
            )
        return tensor.float()

    def same_values(self, first: str, second: str) -> bool:
        """Whether two matrices have equal values, regardless of their dtypes.

        Only a few rows are in memory at a time. Adapters are left out.

        Raises:
            CheckpointError: as load.
        """
        one, other = self.tensors[first], self.tensors[second]
        if one.shape != other.shape or len(one.shape) != 2 or one.shape[1] == 0:
            return False
        rows, columns = one.shape
        step = max(1, _CHUNK_WEIGHTS // columns)
        try:
            for start in range(0, rows, step):
                parts = []
                for piece in (one.pieces[0], other.pieces[0]):
                    with safe_open(piece.file, framework="pt") as opened:
                        parts.append(opened.get_slice(piece.name)[start : start + step].float())
                if not torch.equal(*parts):
                    return False
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"can't read {first} and {second}: {error}") from None
        return True


def _read(piece: Piece) -> torch.Tensor:
    try:
        # The file is opened for every tensor, so that mapped pages are released.
        with safe_open(piece.file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(piece.name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"can't read tensor {piece.name} from {piece.file}: {error}"
        ) from None
    return tensor


def check_tensors(store: TensorFolder, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that all tensors of ``shapes`` exist, with these shapes and a dtype of FLOAT_DTYPES.

    Raises:
        CheckpointError: a tensor is missing or differs; the message names it.
    """
    missing = [name for name in shapes if name not in store.tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{store.folder} has no tensor {missing[0]}{more}")
    for name, shape in shapes.items():
        stored = store.tensors[name]
        if 0 in stored.shape:
            raise CheckpointError(
                f"tensor {name} in {stored.file} is empty (shape {list(stored.shape)}), as "
                "DeepSpeed ZeRO-3 saves tensors that it hasn't gathered; run zero_to_fp32.py"
            )
        if stored.shape != tuple(shape):
            raise CheckpointError(
                f"tensor {name} in {stored.file} has shape {list(stored.shape)}; "
                f"config.json calls for {list(shape)}"
            )
        if stored.dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"tensor {name} in {stored.file} is {stored.dtype}; "
                f"expected one of {', '.join(FLOAT_DTYPES)}"
            )
