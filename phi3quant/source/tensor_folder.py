"""Folder of safetensors: headers are read when it is opened, tensors on demand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from phi3quant.disk.file_name import is_file_name
from phi3quant.disk.first_bytes import lfs_hint
from phi3quant.disk.tensor_stream import DTYPE_NAMES
from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import CheckpointError, DamagedError
from phi3quant.model.config import adapter_hint
from phi3quant.parallel import over_rows

FLOAT_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Dtypes of plain weights, by their names in safetensors."""

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_SINGLE_WINS = (
    f"both {SINGLE_FILE} and {INDEX_FILE} exist; {SINGLE_FILE} is read and the shards are not, "
    "as by transformers"
)
_PICKLES = ("*.bin", "*.pt", "*.pth")
_CHUNK_WEIGHTS = 1 << 22
"""Values of each of two tensors that are in memory while they are compared."""

_ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's file, and its type's name and its shape from the file's header."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorFolder:
    """Tensors of a folder of safetensors; only headers have been read.

    Attributes:
        folder: folder of the model.
        files: safetensors files that are read.
        tensors: entries by name.
        notes: choices between files that the user should know about.
    """

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorEntry]
    notes: tuple[str, ...] = ()

    def nbytes(self, *prefixes: str) -> int:
        """Bytes of all tensors, or of those whose names begin with one of ``prefixes``."""
        return sum(
            math.prod(stored.shape) * _ITEM_BYTES.get(stored.dtype, 0)
            for name, stored in self.tensors.items()
            if name.startswith(prefixes or ("",))
        )

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor in its stored dtype.

        Raises:
            CheckpointError: the folder has no such tensor, or its file can no longer be read.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.folder} has no tensor {name}")
        file = self.tensors[name].file
        try:
            # The file is opened for every tensor, so that mapped pages are released.
            with safe_open(file, framework="pt") as opened:
                tensor: torch.Tensor = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"can't read tensor {name} from {file}: {error}") from None
        return tensor

    def load_finite(self, name: str) -> torch.Tensor:
        """Read one tensor as FP32 and check that all its values are finite.

        Raises:
            CheckpointError: as load.
            DamagedError: the tensor contains NaN or infinity.
        """
        tensor = self.load(name)
        bad = _count_not_finite(tensor)
        if bad:
            first = tuple(int(i) for i in (~torch.isfinite(tensor)).nonzero()[0])
            raise DamagedError(
                f"tensor {name} in {self.tensors[name].file} has {bad} values that are NaN "
                f"or infinite, the first at {first}; the checkpoint is damaged"
            )
        return tensor.float()

    def same_values(self, first: str, second: str) -> bool:
        """Whether two matrices have equal values, regardless of their dtypes.

        Only a few rows are in memory at a time.

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
                for name, stored in ((first, one), (second, other)):
                    with safe_open(stored.file, framework="pt") as opened:
                        parts.append(opened.get_slice(name)[start : start + step].float())
                if not torch.equal(*parts):
                    return False
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"can't read {first} and {second}: {error}") from None
        return True


def _count_not_finite(tensor: torch.Tensor) -> int:
    rows = tensor.view(len(tensor), -1)
    counts: list[int] = []

    def count(part: slice) -> None:
        # In the common case one sum shows that all values are finite, without a mask. A sum may
        # overflow although all its terms are finite, hence the count.
        if not torch.isfinite(rows[part].sum(dtype=torch.float32)):
            counts.append(int((~torch.isfinite(rows[part])).sum()))

    over_rows(rows.shape[0], rows.shape[1], count)
    return sum(counts)


def open_tensors(folder: Path) -> TensorFolder:
    """Read the headers of all weight files of ``folder``, and the index if there is one.

    If a folder has both a single file and an index, the single file is read, as in transformers.

    Raises:
        CheckpointError: there are no weights, or a shard is missing, truncated or mislabelled.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        notes = () if _no_shards(index) else (_SINGLE_WINS,)
        return TensorFolder(folder, (single,), _read_header(single), notes + _adapter_note(folder))
    if not index.is_file():
        raise CheckpointError(
            f"{folder} has no {SINGLE_FILE} and no index of shards{_hint(folder)}"
        )
    weight_map = _read_weight_map(index)
    files = tuple(folder / name for name in sorted(set(weight_map.values())))
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        for name, stored in _read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"tensor {name} is in both {tensors[name].file} and {file}")
            tensors[name] = stored
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file.name != shard:
            raise CheckpointError(
                f"{index.name} places {name} in {shard}, which doesn't hold it; "
                "the shards don't belong to this index, so download both again"
            )
    return TensorFolder(folder, files, tensors, _adapter_note(folder))


def _adapter_note(folder: Path) -> tuple[str, ...]:
    if adapter_hint(folder) is None:
        return ()
    return ("an adapter is stored next to the weights (adapter_config.json); it is not applied",)


def _no_shards(index: Path) -> bool:
    """Whether the index is missing or lists only the single file, as some tools write it."""
    if not index.exists():
        return True
    try:
        return set(_read_weight_map(index).values()) == {SINGLE_FILE}
    except CheckpointError:
        return False


def _hint(folder: Path) -> str:
    """Remedy for a message, derived from the files that are present in place of the weights."""
    adapter = adapter_hint(folder)
    if adapter is not None:
        return f": {adapter}"
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return (
            f"; it has {others[0]}{more}: add {INDEX_FILE} if these are shards, or name a single "
            f"file {SINGLE_FILE}"
        )
    if any(any(folder.glob(pattern)) for pattern in _PICKLES):
        return (
            "; .bin, .pt and .pth files are pickles, which can run code and are not read: "
            "convert them to safetensors first"
        )
    return ""


def _read_weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} is not an index of shards: it has no weight_map")
    for name, shard in weight_map.items():
        if not is_file_name(shard):
            raise CheckpointError(
                f"{path} places {name[:80]} in {repr(shard)[:80]}, which is not a file name"
            )
    return weight_map


def _read_header(file: Path) -> dict[str, TensorEntry]:
    try:
        if not file.is_file():
            raise CheckpointError(f"the shard {file} is missing")
        # safe_open reports every error of the system as a missing file.
        file.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror}") from None
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                # Slices are lazy: these two calls read no data.
                name: TensorEntry(file, piece.get_dtype(), tuple(piece.get_shape()))
                for name in opened.keys()  # noqa: SIM118 - not a dict; it has no __iter__
                for piece in [opened.get_slice(name)]
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(lfs_hint(file) or _not_whole(file, error)) from None


def _not_whole(file: Path, error: Exception) -> str:
    size = f" ({file.stat().st_size} bytes)" if file.is_file() else ""
    return (
        f"{file}{size} is not a whole safetensors file ({error}); "
        "it is truncated or mislabelled: download it again"
    )


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
