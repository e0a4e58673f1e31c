"""A folder of safetensors, read lazily: headers at once, a tensor when it is asked for."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from phi3quant.config import Phi3Config, read_config
from phi3quant.errors import CheckpointError
from phi3quant.layout import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    Block,
    block_tensor_name,
    tensor_shapes,
)
from phi3quant.parallel import over_rows
from phi3quant.tensor_stream import DTYPE_NAMES

FLOAT_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


_ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPE_NAMES.items()}


class ModelWeights(Protocol):
    """A model whose weights are handed out piece by piece; every reader of a format is one.

    All tensors are FP32: blocks as layout.BLOCK_TENSORS says, embedding and head [vocab, hidden],
    final norm [hidden].
    """

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    def embedding(self) -> torch.Tensor:
        """Token embeddings [vocab, hidden]."""

    def block(self, index: int) -> Block:
        """The tensors of one decoder block."""

    def final_norm(self) -> torch.Tensor:
        """Weight of the last RMSNorm [hidden]."""

    def head(self) -> torch.Tensor:
        """Output projection [vocab, hidden]; the embedding when tied."""


class StoredModel(Protocol):
    """A model on disk, with what can be said of its files."""

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    @property
    def format(self) -> str:
        """What it is stored as, for people."""

    @property
    def files(self) -> Sequence[Path]:
        """The files of weights, and config.json where there is one."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""

    @property
    def linear_bytes(self) -> int:
        """Bytes of the blocks' matrices (layout.LINEARS), scales included."""


class StoredWeights(StoredModel, ModelWeights, Protocol):
    """A model on disk whose weights can be had, piece by piece."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what its file's header says of it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorFolder:
    """All tensors of a folder of safetensors by name; only headers have been read."""

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    def nbytes(self, *prefixes: str) -> int:
        """Bytes of all tensors, or of those whose names begin so."""
        return sum(
            math.prod(stored.shape) * _ITEM_BYTES.get(stored.dtype, 0)
            for name, stored in self.tensors.items()
            if name.startswith(prefixes or ("",))
        )

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor in its stored dtype.

        Raises:
            CheckpointError: the folder has no such tensor, or its file can't be read any more.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.folder} has no tensor {name}")
        file = self.tensors[name].file
        try:
            # Opened anew for every tensor, so that pages of the mapping are given back.
            with safe_open(file, framework="pt") as opened:
                tensor: torch.Tensor = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"can't read tensor {name} from {file}: {error}") from None
        return tensor

    def load_finite(self, name: str) -> torch.Tensor:
        """Read one tensor as FP32 and make sure that all of it is finite.

        Raises:
            CheckpointError: as load; or NaN or infinity stands in the tensor.
        """
        tensor = self.load(name)
        bad = _count_not_finite(tensor)
        if bad:
            first = tuple(int(i) for i in (~torch.isfinite(tensor)).nonzero()[0])
            raise CheckpointError(
                f"tensor {name} in {self.tensors[name].file} has {bad} values that are NaN "
                f"or infinite, the first at {first}; the checkpoint is damaged"
            )
        return tensor.float()


def _count_not_finite(tensor: torch.Tensor) -> int:
    rows = tensor.view(len(tensor), -1)
    counts: list[int] = []

    def count(part: slice) -> None:
        # A sum is finite only if all terms are: one pass and no mask in the common case. It may
        # overflow where no term is infinite, hence the count.
        if not torch.isfinite(rows[part].sum(dtype=torch.float32)):
            counts.append(int((~torch.isfinite(rows[part])).sum()))

    over_rows(rows.shape[0], rows.shape[1], count)
    return sum(counts)


def open_tensors(folder: Path) -> TensorFolder:
    """Read the headers of all weight files of ``folder``, and the index if there is one.

    Raises:
        CheckpointError: no weights, or a shard that is missing, truncated or mislabelled.
    """
    index_path = folder / "model.safetensors.index.json"
    if index_path.is_file():
        weight_map = _read_weight_map(index_path)
        files = tuple(folder / name for name in sorted(set(weight_map.values())))
    elif (folder / "model.safetensors").is_file():
        weight_map = {}
        files = (folder / "model.safetensors",)
    else:
        raise CheckpointError(
            f"{folder} has no model.safetensors and no index of shards{_other_weights(folder)}"
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, stored in _read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"tensor {name} is in both {tensors[name].file} and {file}")
            tensors[name] = stored
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file.name != shard:
            raise CheckpointError(
                f"{index_path.name} says that {shard} holds {name}, but it does not; "
                "the shards and the index don't belong together"
            )
    return TensorFolder(folder, files, tensors)


def _other_weights(folder: Path) -> str:
    """A hint for folders that hold pickled weights, which are never opened."""
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return (
            "; .bin and .pt files are pickles, which can run code and are not read: "
            "convert them to safetensors first"
        )
    return ""


def _read_weight_map(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not an index of shards: {error!r}") from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has an empty weight_map")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{path} places {name} in {shard!r}, which is not a file name")
    return weight_map


def _read_header(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                # The library yields slices lazily: these two calls read no data.
                name: StoredTensor(file, piece.get_dtype(), tuple(piece.get_shape()))
                for name in opened.keys()  # noqa: SIM118 - not a dict; it has no __iter__
                for piece in [opened.get_slice(name)]
            }
    except FileNotFoundError:
        raise CheckpointError(f"the shard {file} is missing") from None
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise CheckpointError(
            f"{file} ({size} bytes) is not a whole safetensors file ({error}); "
            "it is truncated or mislabelled: download it again"
        ) from None


@dataclass(frozen=True)
class Checkpoint:
    """A plain FP16, BF16 or FP32 Phi-3 checkpoint; implements ModelWeights."""

    folder: Path
    config: Phi3Config
    store: TensorFolder

    @property
    def format(self) -> str:
        """See StoredModel."""
        return f"safetensors {self.store.tensors[block_tensor_name(0, LINEARS[0])].dtype}"

    @property
    def files(self) -> Sequence[Path]:
        """See StoredModel."""
        return (self.folder / "config.json", *self.store.files)

    @property
    def weight_bytes(self) -> int:
        """See StoredModel."""
        return self.store.nbytes()

    @property
    def linear_bytes(self) -> int:
        """See StoredModel."""
        return linear_bytes(self.store, self.config)

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING)

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return {key: self.store.load_finite(block_tensor_name(index, key)) for key in BLOCK_TENSORS}

    def stored_block(self, index: int) -> Block:
        """A block with its matrices in their stored dtype, not yet read nor checked; norms FP32."""
        names = {key: block_tensor_name(index, key) for key in BLOCK_TENSORS}
        return {
            key: self.store.load(name) if key in LINEARS else self.store.load_finite(name)
            for key, name in names.items()
        }

    def final_norm(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(FINAL_NORM)

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.store.load_finite(EMBEDDING if self.config.tie_word_embeddings else HEAD)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a plain checkpoint; config and all headers are checked, no weights are read.

    Raises:
        ConfigError: config.json is missing or not Phi-3.
        CheckpointError: weights are missing, truncated, of a wrong shape or dtype.
    """
    config = read_config(folder)
    store = open_tensors(folder)
    check_tensors(store, tensor_shapes(config))
    return Checkpoint(folder, config, store)


def linear_bytes(store: TensorFolder, config: Phi3Config) -> int:
    """Bytes of the blocks' matrices, plain or packed into several tensors each."""
    return store.nbytes(
        *(
            block_tensor_name(index, key).removesuffix("weight")
            for index in range(config.num_hidden_layers)
            for key in LINEARS
        )
    )


def check_tensors(store: TensorFolder, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Make sure that the float tensors of ``shapes`` are all there, with these shapes.

    Raises:
        CheckpointError: names what is missing or differs.
    """
    missing = [name for name in shapes if name not in store.tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{store.folder} has no tensor {missing[0]}{more}")
    for name, shape in shapes.items():
        stored = store.tensors[name]
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


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_if_there(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, or an empty one if there is no such file.

    Raises:
        CheckpointError: the file is there but holds something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return value
