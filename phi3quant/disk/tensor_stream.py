"""Streaming writer of safetensors: the header first, then one tensor at a time.

The safetensors library needs all tensors of a file in memory; this writer needs only the current
one. The format: https://huggingface.co/docs/safetensors
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from phi3quant.disk.hashed_file import HashedFile
from phi3quant.disk.ordered_writer import OrderedWriter
from phi3quant.disk.tensor_plan import (
    SHARD_BYTES,
    PlannedTensor,
    plan_shards,
    safetensors_header,
)

DTYPE_NAMES: Mapping[torch.dtype, str] = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int8: "I8",
    torch.uint8: "U8",
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
"""Torch dtypes by their names in safetensors."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, torch dtype and shape of a tensor that is going to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return self.planned.nbytes

    @property
    def planned(self) -> PlannedTensor:
        """The same tensor with the type's name in place of the torch dtype."""
        return PlannedTensor(self.name, DTYPE_NAMES[self.dtype], self.shape)


def spec_of(planned: PlannedTensor) -> TensorSpec:
    """Planned tensor with a torch dtype in place of the type's name."""
    return TensorSpec(planned.name, DTYPES[planned.dtype], planned.shape)


class SafetensorsStream:
    """Writer of safetensors shards into a folder, one tensor at a time.

    File names follow Hugging Face: ``model.safetensors``, or ``model-00001-of-00002.safetensors``
    and so on with an index. Tensors must be written in the order of ``specs``.

    Attributes:
        hashed: size and SHA-256 of each shard by its name, taken while writing; all of them once
            the stream is completed.

    Examples:
        >>> import tempfile
        >>> from phi3quant.disk.ordered_writer import completed
        >>> specs = [TensorSpec("w", torch.float32, (2, 2))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with completed(SafetensorsStream(Path(folder), specs)) as out:
        ...         out.write("w", torch.eye(2))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['model.safetensors']
    """

    def __init__(
        self,
        folder: Path,
        specs: Sequence[TensorSpec],
        shard_bytes: int = SHARD_BYTES,
        library: str = "pt",
    ) -> None:
        self._folder, self._library = folder, library
        self._shards = plan_shards([spec.planned for spec in specs], shard_bytes)
        self._places = {
            spec.name: (number, spec) for number, shard in enumerate(self._shards) for spec in shard
        }
        self._file: HashedFile | None = None
        self._order = OrderedWriter(self._places, self._close_shard)
        self.hashed: dict[str, dict[str, Any]] = {}

    def complete(self) -> None:
        """See Completable."""
        self._order.complete()
        if len(self._shards) > 1:
            self._write_index()

    def abandon(self) -> None:
        """See Completable."""
        self._order.abandon()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor, which must not be changed afterwards.

        Raises:
            ValueError: name, dtype or shape differ from the next of ``specs``.
        """
        self._order.expect(name)
        number, spec = self._places[name]
        dtype = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
        actual = PlannedTensor(name, dtype, tuple(tensor.shape))
        if actual != spec:
            raise ValueError(f"expected {spec}, got {actual}")
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        self._order.submit(partial(self._append, number, spec, data.numpy().data), spec.nbytes)

    def _append(self, number: int, spec: PlannedTensor, data: memoryview) -> None:
        if spec is self._shards[number][0]:
            self._close_shard()
            self._file = HashedFile(self._folder / self._shard_name(number))
            self._file.write(safetensors_header(self._shards[number], self._library))
        assert self._file is not None
        self._file.write(data)

    def _close_shard(self) -> None:
        if self._file is not None:
            self.hashed[self._file.path.name] = self._file.close()
            self._file = None

    def _shard_name(self, number: int) -> str:
        count = len(self._shards)
        if count == 1:
            return "model.safetensors"
        return f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    def _write_index(self) -> None:
        weight_map = {name: self._shard_name(number) for name, (number, _) in self._places.items()}
        total = sum(spec.nbytes for _, spec in self._places.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        path = self._folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
